"""An order from a published model, in Python.

    python examples/published_model.py ./musicgen-small

The model is a folder in Hugging Face's or AudioCraft's form, or a hub id such as facebook/musicgen-small. A notebook
takes the cells between `# %%` as they are, where a sound on a cell's last line is a player.
"""

# %% Load it, and its codec with it.
import sys

import segue

model = segue.load_model(sys.argv[1])
print(f"reads {', '.join(model.conditions)}")

# %% A first sound. The same words and seed give the same clip, here and in `segue generate`.
clip = model.generate("calm piano at night", seconds=2, seed=1)
print(f"{clip.samples.shape[0]} channel, {clip.seconds:.1f} s at {clip.sample_rate} Hz")

# %% Several side by side, each as it is done: what a line of a requests file may say, a request may say here.
order = [
    {"name": "steady", "description": "loud drums", "seconds": 1, "temperature": 0.8},
    {"name": "wild", "description": "loud drums", "seconds": 1, "temperature": 1.2, "takes": 2},
]
for made in model.generate_all(order):
    print(f"{made.request['name']} {made.take}: {made.seconds:.1f} s, seed {made.seed}")

# %% To codes and back: what the language model hears of a sound.
codes = model.codec.encode(clip)
again = model.codec.decode(codes)
print(f"{codes.shape[0]} codebooks, {codes.shape[1]} frames, {again.seconds:.1f} s")

# %% Listen: a sound as the last line of a cell is a player. IPython.display.Audio takes its samples as they are.
# Audio(clip.samples, rate=clip.sample_rate)
