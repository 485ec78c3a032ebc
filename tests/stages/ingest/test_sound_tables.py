"""Recordings in Parquet tables, as Hugging Face's `datasets` writes them."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.tables import REJECTS, TRACKS
from stages.audio.locations import AudioError, open_binary
from stages.pipeline.jobs import Counts
from tests.worlds.ingest_world import RATE, World
from tests.worlds.recordings import encoded, tones, write


def sound(seed, form="FLAC"):
    return encoded(form, tones(0.6, seed, RATE), RATE)


def table(*rows):
    """A table of sounds (path, bytes) with titles, two rows per group."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    sounds = pa.array([{"path": path, "bytes": data} for path, data, _ in rows], kind)
    return pa.table({"audio": sounds, "title": [title for _, _, title in rows]})


ROWS = [("a.flac", sound(1), "first"), ("far/away/b.mp3", sound(2, "MP3"), "second"), (None, sound(3, "WAV"), "third")]


def test_a_table_of_sounds_is_ingested_with_its_other_columns(tmp_path):
    world = World(tmp_path)
    world.add("outside.flac", 9)
    path = world.music / "data" / "train-00000.parquet"
    path.parent.mkdir()
    pq.write_table(table(*ROWS), path, row_group_size=2)
    assert world.run() == Counts(4, 0, 0)
    start, end = "parquet://", f"::file://{path}"
    titles = {row["uri"]: row["title"] for row in world.store.read_all(TRACKS).to_pylist()}
    assert titles == {
        **{f"{start}a.flac{end}": "first", f"{start}b.mp3{end}": "second", f"{start}2.wav{end}": "third"},
        str(world.music / "outside.flac"): None,
    }
    assert world.run() == Counts(0, 4, 0)
    assert world.read == 0


def test_a_sound_inside_and_outside_a_table_is_the_same_track(tmp_path):
    inside, outside = World(tmp_path / "in"), World(tmp_path / "out")
    inside.music.mkdir(parents=True)
    pq.write_table(table(ROWS[0]), inside.music / "x.parquet")
    write(outside.music / "a.flac", ROWS[0][1])
    inside.run()
    outside.run()
    question = "SELECT track_id FROM tracks"
    assert inside.answer(question) == outside.answer(question) != []


def test_a_changed_table_is_read_again_and_rows_without_bytes_are_refused(tmp_path):
    world = World(tmp_path)
    world.music.mkdir()
    path = world.music / "x.parquet"
    pq.write_table(table(*ROWS[:2]), path)
    assert world.run() == Counts(2, 0, 0)
    pq.write_table(table(ROWS[0], ("b.mp3", None, "gone"), ("b.mp3", ROWS[1][1], "same name")), path)
    assert world.run() == Counts(2, 0, 1)
    (reject,) = world.store.read(REJECTS, "v").to_pylist()
    assert (reject["kind"], reject["uri"].partition("::")[0]) == ("missing", "parquet://b.mp3")
    assert open_binary(f"parquet://2-b.mp3::file://{path}").read() == ROWS[1][1]


def test_a_single_table_is_a_source(tmp_path):
    world = World(tmp_path)
    world.music.mkdir()
    pq.write_table(table(*ROWS), world.music / "x.parquet")
    world.source = str(world.music / "x.parquet")
    assert world.run() == Counts(3, 0, 0)


def test_a_table_without_sounds_still_describes_files(tmp_path):
    world = World(tmp_path)
    world.add("a.flac", 1)
    pq.write_table(pa.table({"file_name": ["a.flac"], "title": ["told"]}), world.music / "metadata.parquet")
    assert world.run() == Counts(1, 0, 0)
    assert world.rows()["a.flac"]["title"] == "told"


def test_a_missing_row_or_a_bad_table_is_an_audio_error(tmp_path):
    pq.write_table(table(*ROWS), tmp_path / "x.parquet")
    with pytest.raises(AudioError, match="got no such row with bytes"):
        open_binary(f"parquet://c.flac::file://{tmp_path}/x.parquet")
    (tmp_path / "y.parquet").write_bytes(b"not at all")
    with pytest.raises(AudioError, match="expected a Parquet table"):
        open_binary(f"parquet://c.flac::file://{tmp_path}/y.parquet")
