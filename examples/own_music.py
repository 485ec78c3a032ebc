"""From a folder of your own music to a catalog, in Python.

    python examples/own_music.py ./recordings ./store

Words after that are knobs, such as train.optimization.steps=500. A notebook takes the cells between `# %%` as they are
(in VS Code, PyCharm and Jupyter with jupytext), where a sound on a cell's last line is a player.
"""

# %% Run everything: recordings to tracks, codes, a model, clips, scores and a page. Again, it does only what is new.
import sys

import segue

music, place, *knobs = sys.argv[1:]
store = segue.run(music, place, knobs=knobs)

# %% What was taken in, as a pandas table: any SELECT over any table.
tracks = store.query(
    "SELECT genre, count(*) AS tracks, round(sum(seconds)) AS seconds, round(avg(loudness), 1) AS lufs "
    "FROM tracks GROUP BY genre ORDER BY tracks DESC, genre",
    "pandas",
)
print(tracks.to_string(index=False))

# %% The clips that follow what they were asked for best.
best = store.query(
    "SELECT description, path, key_score FROM clips JOIN scores USING (request_id, take) JOIN requests USING "
    "(request_id) ORDER BY key_score DESC NULLS LAST, path LIMIT 3"
)
for clip in best.to_pylist():
    print(f"{clip['path']}: {clip['description']}")

# %% Listen to one.
sound = store.sound(best["path"][0].as_py())
print(f"{sound.seconds:.1f} s at {sound.sample_rate} Hz")

# %% The newest model of the store, for clips beyond the order.
model = segue.load_model("checkpoint:language_model", store=place)
new = model.generate({"description": "a slow song with flute", "seconds": 2, "key": "D minor"})
print(f"{new.seconds:.1f} s of new sound, codes {new.codes.shape[0]} x {new.codes.shape[1]}")
