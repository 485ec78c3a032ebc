"""Ingest from an object store, over the real S3 protocol (moto's server on loopback)."""

import gzip
import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
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
def test_a_bucket_is_ingested_like_a_folder(bucket, tmp_path, workers):
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


def taken_in(world, name, files, *, s3, source=""):
    """Put files into a bucket, ingest it twice, and return the descriptions by the beginnings of their URIs."""
    for key, data in files.items():
        s3.pipe_file(f"{name}/{key}", data)
    world.source = f"s3://{name}/{source}".rstrip("/")
    made = world.run()
    assert world.run() == Counts(0, made.made, made.refused)
    assert world.read == 0
    rows = world.store.read(TRACKS, "v").to_pylist()
    return {row["uri"].removeprefix(f"s3://{name}/").partition("::")[0]: row["description"] for row in rows}


def tar(files):
    """An archive in memory."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return written.getvalue()


def lines(*rows):
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())


SOUNDS = {number: encoded("FLAC", tones(0.6, number, RATE), RATE) for number in (1, 2)}


def test_webdataset_tars_in_a_bucket_are_read_in_place(bucket, tmp_path):
    s3, name = bucket
    sounds = {f"{number}.flac": sound for number, sound in SOUNDS.items()}
    archive = tar(sounds | {"1.txt": b"a slow waltz", "2.json": b'{"description": "fast drums"}'})
    told = taken_in(World(tmp_path), name, {"shards/0.tar": archive}, s3=s3)
    assert told == {"tar://1.flac": "a slow waltz", "tar://2.flac": "fast drums"}


def test_lhotse_manifests_in_a_bucket_ingest_the_recordings_that_they_name(bucket, tmp_path):
    s3, name = bucket
    source = {"type": "url", "channels": [0], "source": f"s3://{name}/far/1.flac"}
    recording = {"id": "r1", "sources": [source], "sampling_rate": RATE, "num_samples": 9_600, "duration": 0.6}
    cut = {"id": "c1", "start": 0, "duration": 0.6, "channel": 0, "type": "MonoCut", "recording": recording}
    cut["supervisions"] = [{"id": "s", "recording_id": "r1", "start": 0, "duration": 0.6, "text": "slow strings"}]
    files = {"far/1.flac": SOUNDS[1], "cuts.jsonl.gz": lines(cut)}
    assert taken_in(World(tmp_path), name, files, s3=s3, source="cuts.jsonl.gz") == {"far/1.flac": "slow strings"}


def test_a_folder_of_lhotse_shar_in_a_bucket_is_read_in_place(bucket, tmp_path):
    s3, name = bucket
    cuts = []
    for number in SOUNDS:
        sources = [{"type": "shar", "channels": [0], "source": ""}]
        recording = {"id": f"r{number}", "sources": sources, "sampling_rate": RATE, "duration": 0.6}
        told = {
            "id": f"s{number}",
            "recording_id": f"r{number}",
            "start": 0,
            "duration": 0.6,
            "text": f"piece {number}",
        }
        cuts.append({"id": f"c{number}", "start": 0, "duration": 0.6, "supervisions": [told], "recording": recording})
    sounds = {f"c{number}.flac": sound for number, sound in SOUNDS.items()}
    files = {"shar/cuts.000000.jsonl.gz": lines(*cuts), "shar/recording.000000.tar": tar(sounds)}
    told = taken_in(World(tmp_path), name, files, s3=s3)
    assert told == {"tar://c1.flac": "piece 1", "tar://c2.flac": "piece 2"}


def test_tables_of_sounds_in_a_bucket_are_read_in_place(bucket, tmp_path):
    s3, name = bucket
    rows = [{"path": f"{number}.flac", "bytes": sound} for number, sound in SOUNDS.items()]
    written = io.BytesIO()
    pq.write_table(pa.table({"audio": rows, "description": ["a slow waltz", "fast drums"]}), written)
    told = taken_in(World(tmp_path), name, {"data/train.parquet": written.getvalue()}, s3=s3)
    assert told == {"parquet://1.flac": "a slow waltz", "parquet://2.flac": "fast drums"}
