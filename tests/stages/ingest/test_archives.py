"""Recordings in tar files, as WebDataset writes them: read in place, and described by the files beside them."""

import io
import json
import os
import tarfile
from pathlib import Path

import fsspec
import pytest

from stages.audio.locations import AudioError, open_binary
from stages.ingest.choosing import Chosen
from stages.ingest.listing import list_source
from stages.pipeline.runner import Counts
from tests.worlds.ingest_world import RATE, World
from tests.worlds.recordings import encoded, tones, write


def _tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def _sound(seed: int, form: str = "FLAC") -> bytes:
    return encoded(form, tones(0.6, seed, RATE), RATE)


SAMPLES = {
    "000.flac": _sound(1),
    "000.json": json.dumps({"title": "first", "bpm": "120,5"}).encode(),
    "001.mp3": _sound(2, "MP3"),
    "001.txt": b"A slow waltz for two guitars",
    "sub/002.wav": _sound(3, "WAV"),
    "notes.txt": b"of no recording",
}


def test_recordings_in_a_tar_file_are_ingested_with_their_sidecars(tmp_path):
    world = World(tmp_path)
    world.add("outside.flac", 9)
    _tar(world.music / "shards" / "a-000.tar", SAMPLES)
    assert world.run() == Counts(4, 0, 0)
    rows = {row["uri"]: row for row in world.rows().values()}
    archive = f"file://{world.music}/shards/a-000.tar"
    assert rows[f"tar://000.flac::{archive}"]["title"] == "first"
    assert rows[f"tar://000.flac::{archive}"]["bpm"] == 120.5
    assert rows[f"tar://001.mp3::{archive}"]["description"] == "A slow waltz for two guitars"
    assert f"tar://sub/002.wav::{archive}" in rows
    assert world.run() == Counts(0, 4, 0)
    assert world.read == 0


def test_a_recording_inside_and_outside_an_archive_is_one_track(tmp_path):
    world = World(tmp_path)
    write(world.music / "a.flac", SAMPLES["000.flac"])
    _tar(world.music / "b.tar", {"x.flac": SAMPLES["000.flac"]})
    assert world.run() == Counts(1, 0, 0)
    [row] = world.rows().values()
    assert len(row["files"]) == 2


def test_a_member_of_an_archive_can_be_read_and_seeked_like_a_file(tmp_path):
    path = _tar(tmp_path / "a b.tar", SAMPLES)
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/archives/a.tar", path.read_bytes())
    for archive in (f"file://{path}", "memory://archives/a.tar"):
        with open_binary(f"tar://sub/002.wav::{archive}") as file:
            assert file.read() == SAMPLES["sub/002.wav"]
            assert file.seek(-10, os.SEEK_END) == len(SAMPLES["sub/002.wav"]) - 10
            assert file.read(100) == SAMPLES["sub/002.wav"][-10:]
            file.seek(4)
            assert file.read(8) == SAMPLES["sub/002.wav"][4:12]
        with pytest.raises(AudioError, match="no such member"):
            open_binary(f"tar://none.wav::{archive}")


def test_a_changed_archive_is_read_again_and_a_removed_one_loses_its_rows(tmp_path):
    world = World(tmp_path)
    world.add("outside.flac", 9)
    path = _tar(world.music / "a.tar", {"x.flac": _sound(1)})
    world.run()
    _tar(path, {"x.flac": _sound(2), "y.flac": _sound(3)})
    os.utime(path, ns=(5, 5))
    world.run()
    assert world.read == 2
    assert len(world.rows()) == 3
    os.remove(path)
    assert world.run() == Counts(0, 1, 0)


def test_unreadable_archives_are_refused_and_the_rest_is_ingested(tmp_path):
    world = World(tmp_path)
    world.add("a.flac", 1)
    whole = _tar(world.music / "whole.tar", {"x.flac": _sound(2)}).read_bytes()
    write(world.music / "cut.tar", whole[:2000])
    write(world.music / "bad.tar", b"no tar at all" * 1000)
    _tar(world.music / "names.tar", {"a::b.flac": _sound(3), "../../up.flac": _sound(4), ".x/h.flac": _sound(5)})
    world.run()
    rejects = {name: (row["kind"], row["message"]) for name, row in world.rejects().items()}
    assert rejects["cut.tar"] == ("unreadable", "expected a whole tar file, got one that was cut short in 'x.flac'")
    assert rejects["bad.tar"][1].startswith("expected a tar file that is not compressed, got")
    assert rejects["names.tar"][0] == "name"
    assert sorted(row["uri"].partition("::")[0] for row in world.rows().values()) == [
        str(world.music / "a.flac"),
        "tar://x.flac",
    ]


def test_patterns_apply_to_members_of_archives_too(tmp_path):
    _tar(tmp_path / "a.tar", {"x.flac": b"1", "x.wav": b"2", "node_modules/y.wav": b"3", "z.dsf": b"4"})
    listing = list_source(str(tmp_path), chosen=Chosen(("*.wav",)))
    assert [file.relative for file in listing.recordings] == ["a.tar/x.wav"]
    assert {remark.examples for remark in listing.remarks.all()} == {
        ("a.tar/x.flac",),
        ("a.tar/node_modules/y.wav",),
        ("a.tar/z.dsf",),
    }
