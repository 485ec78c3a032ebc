"""Ingest from an object store, over the real S3 protocol (moto's server on loopback)."""

import pytest

from schemas.tables import TRACKS
from stages.pipeline.jobs import Counts
from tests.worlds.ingest_world import RATE, World
from tests.worlds.object_store import object_store
from tests.worlds.recordings import encoded, encoded_by_ffmpeg, tones


@pytest.fixture
def bucket(tmp_path):
    """A filesystem with an empty bucket, and the bucket's name."""
    with object_store() as filesystem:
        name = f"music-{abs(hash(tmp_path))}"
        filesystem.mkdir(name)
        yield filesystem, name


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bucket_is_taken_in_like_a_folder(bucket, tmp_path, workers):
    s3, name = bucket
    files = {
        "b/1.flac": encoded("FLAC", tones(0.6, 1, RATE), RATE),
        "b/ü 2.m4a": encoded_by_ffmpeg("mp4", "aac", tones(0.8, 2)),
        "a::3.mp3": encoded("MP3", tones(0.8, 3, RATE), RATE),
        "bad.wav": b"bad",
        ".hidden/x.wav": b"bad",
        "b/1.json": b'{"title": "one", "artist": "x"}',
        "metadata.csv": "file_name,artist\nb/ü 2.m4a,me\n".encode(),
    }
    for key, data in files.items():
        s3.pipe_file(f"{name}/{key}", data)
    world = World(tmp_path)
    world.source = f"s3://{name}"
    context = world.context
    world.context = lambda: _with_workers(context(), workers)
    assert world.run() == Counts(3, 0, 1)
    rows = {row["uri"].removeprefix(f"s3://{name}/"): row for row in world.store.read(TRACKS, "v").to_pylist()}
    assert sorted(rows) == ["a::3.mp3", "b/1.flac", "b/ü 2.m4a"]
    assert rows["b/1.flac"]["title"] == "one"
    assert rows["b/ü 2.m4a"]["artist"] == "me"
    assert world.run() == Counts(0, 3, 1)
    assert world.read == 0
    s3.pipe_file(f"{name}/b/1.json", b'{"title": "two", "artist": "x"}')
    assert world.run() == Counts(1, 2, 1)
    assert world.read == 0
    s3.rm_file(f"{name}/a::3.mp3")
    s3.pipe_file(f"{name}/bad.wav", encoded("WAV", tones(0.6, 9, RATE), RATE))
    assert world.run() == Counts(1, 2, 0)
    assert world.read == 1


def _with_workers(context, workers):
    context.settings = context.settings.model_copy(update={"workers": workers})
    return context
