"""Captions: one sentence with everything that is known, and none if nothing is known."""

import json
import os

import pytest

from stages.ingest.captions import caption_of
from tests.worlds.ingest_world import World
from tests.worlds.recordings import write

KNOWN = {"genre": "Jazz", "moods": ["Calm", "dark"], "instrument": "piano, bass, drums", "bpm": 72.4, "key": "A minor"}


def test_a_caption_has_everything_that_is_known_in_one_sentence():
    expected = "A calm, dark jazz piece with piano, bass and drums, slow (72 BPM), in A minor, quiet."
    assert caption_of(KNOWN, -30.0) == expected


@pytest.mark.parametrize(
    ("values", "loudness", "caption"),
    [
        ({"genre": "Ambient"}, None, "An ambient piece."),
        ({"bpm": 174.0}, -8.0, "A piece, very fast (174 BPM), loud."),
        ({"key": "C major"}, -14.0, "A piece, in C major."),
        ({"instrument": "violin"}, None, "A piece with violin."),
        ({"moods": ["a", "b", "c", "d"]}, None, "An a, b, c piece."),
        ({"title": "Song", "artist": "Somebody", "album": "Of"}, -8.0, None),
        ({}, None, None),
    ],
)
def test_a_caption_leaves_out_unknown_facts_and_the_title(values, loudness, caption):
    assert caption_of(values, loudness) == caption


def test_captions_are_made_only_on_request_for_tracks_without_one_and_read_no_sound(tmp_path):
    world = World(tmp_path)
    for seed, (name, fields) in enumerate(
        {"a": {"genre": "jazz"}, "b": {"genre": "jazz", "description": "Slow"}}.items()
    ):
        world.add(f"{name}.flac", seed)
        write(world.music / f"{name}.json", json.dumps(fields).encode())
    world.add("c.flac", 9)

    def descriptions():
        return {name[0]: (row["description"], row["description_source"]) for name, row in world.rows().items()}

    world.run()
    plain = {"a": (None, None), "b": ("Slow", "metadata"), "c": (None, None)}
    assert descriptions() == plain
    world.config = world.config.model_copy(update={"captions": "template"})
    for path in world.music.glob("*.flac"):
        state = path.stat()
        path.write_bytes(b"no sound any more".ljust(state.st_size, b"\0"))
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    world.run()
    assert world.read == 0
    made, source = descriptions()["a"]
    assert (made.startswith("A jazz piece"), source) == (True, "template")
    assert {name: descriptions()[name] for name in "bc"} == {name: plain[name] for name in "bc"}
    world.config = world.config.model_copy(update={"captions": "none"})
    world.run()
    assert descriptions() == plain
