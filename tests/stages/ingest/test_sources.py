"""Sources: several at once, and manifests that list recordings."""

import gzip
import json
import os
import shutil
import tarfile

import pytest

from stages.ingest.sources import list_sources
from stages.pipeline.runner import Counts
from tests.worlds.ingest_world import World
from tests.worlds.recordings import write


def test_several_sources_are_listed_under_their_own_folders(tmp_path):
    for name in ("one/music/a.wav", "two/music/a.wav", "two/music/b.dsf", "three/c.wav"):
        write(tmp_path / name, b"x")
    sources = [str(tmp_path / name) for name in ("one/music", "two/music", "three", "three/c.wav")]
    listing = list_sources(sources)
    assert [file.relative for file in listing.recordings] == ["music/a.wav", "three/c.wav", "music-2/a.wav"]
    assert len({file.uri for file in listing.recordings}) == 3
    assert [remark.examples for remark in listing.remarks.all()] == [("music-2/b.dsf",)]
    with pytest.raises(ValueError, match="does not exist"):
        list_sources([*sources, str(tmp_path / "nowhere")])


def test_a_file_or_an_archive_among_sources_is_named_once(tmp_path):
    for name in ("music/a.wav", "b.wav", "other/b.wav"):
        write(tmp_path / name, b"x")
    with tarfile.open(tmp_path / "c.tar", "w") as archive:
        archive.add(tmp_path / "b.wav", "inner/b.wav")
    listing = list_sources([str(tmp_path / name) for name in ("music", "b.wav", "c.tar", "other/b.wav")])
    names = sorted(file.relative for file in listing.recordings)
    assert names == ["b.wav", "b.wav-2/b.wav", "c.tar/inner/b.wav", "music/a.wav"]


def _manifest(path, *rows: dict) -> str:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    write(path, gzip.compress(data) if path.name.endswith(".gz") else data)
    return str(path)


@pytest.mark.parametrize("name", ["data.jsonl", "data.jsonl.gz"])
def test_a_manifest_as_the_source_ingests_the_recordings_it_names_with_fields_and_sidecars(tmp_path, name):
    world = World(tmp_path)
    world.add("a.flac", 1)
    world.add("sub/b.flac", 2)
    world.add("not named.flac", 3)
    write(world.music / "a.json", b'{"artist": "from sidecar"}')
    rows = [
        {"path": str(world.music / "a.flac"), "duration": 0.6, "title": "absolute"},
        {"path": "music/sub/b.flac", "duration": 0.6, "title": "from a folder above"},
        {"path": "music/gone.flac"},
        {"path": "/dev/zero"},
    ]
    world.source = _manifest(tmp_path / "egs" / "train" / name, *rows)
    assert world.run() == Counts(2, 0, 1)
    found = {name: (row["title"], row["artist"]) for name, row in world.rows().items()}
    assert found == {"a.flac": ("absolute", "from sidecar"), "sub/b.flac": ("from a folder above", None)}
    [reject] = world.rejects().values()
    assert (reject["kind"], reject["uri"]) == ("missing", "music/gone.flac")
    assert world.run() == Counts(0, 2, 1)
    world.source = _manifest(tmp_path / "egs" / "train" / name, {**rows[0], "title": "changed"}, rows[1])
    world.run()
    assert world.read == 0
    assert world.rows()["a.flac"]["title"] == "changed"
    assert world.rejects() == {}


def test_a_manifest_that_names_nothing_is_refused_with_the_reason(tmp_path):
    source = _manifest(tmp_path / "data.jsonl", {"file": "a.wav"})
    with pytest.raises(ValueError, match="expected a manifest that names recordings by path as the source, got"):
        list_sources([source])


def test_a_manifest_and_a_folder_can_both_be_sources(tmp_path):
    world = World(tmp_path)
    world.add("a.flac", 1)
    shutil.copytree(world.music, tmp_path / "other")
    os.rename(tmp_path / "other" / "a.flac", tmp_path / "other" / "b.flac")
    manifest = _manifest(tmp_path / "other" / "data.jsonl", {"path": "b.flac", "title": "T"})
    listing = list_sources([str(world.music), manifest])
    assert sorted(file.relative for file in listing.recordings) == ["data.jsonl/b.flac", "music/a.flac"]
    world.source = (str(world.music), manifest)
    world.run()
    [row] = world.rows().values()
    assert (row["title"], len(row["files"])) == ("T", 2)
