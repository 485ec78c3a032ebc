"""Sources written by other libraries: lhotse's manifests and Shar, WebDataset's tar files."""

import json
from pathlib import Path
from typing import Any

import pytest

from stages.ingest.lhotse_rows import recording_row
from stages.ingest.sources import list_sources
from stages.pipeline.runner import Counts
from tests.worlds.ingest_world import RATE, World
from tests.worlds.recordings import encoded, tones, write

lhotse: Any = pytest.importorskip("lhotse")
webdataset: Any = pytest.importorskip("webdataset")


def recordings(world: World, count: int = 3) -> Any:
    """A RecordingSet of lhotse with the recordings of a folder by absolute paths."""
    files = [world.add(f"{number}.flac", number) for number in range(count)]
    made = [lhotse.Recording.from_file(file, recording_id=f"take.{file.stem}") for file in files]
    return lhotse.RecordingSet.from_recordings(made)


def cuts(world: World) -> Any:
    """A CutSet of the same, each cut with two supervisions and fields of its own."""
    made = []
    for recording in recordings(world):
        cut = recording.to_cut()
        place = {"recording_id": recording.id, "channel": 0}
        cut.supervisions = [
            lhotse.SupervisionSegment(
                id="1", start=0, duration=0.3, text="a calm piece", speaker="Ann", custom={"genre": "folk"}, **place
            ),
            lhotse.SupervisionSegment(id="2", start=0.3, duration=0.3, text="with a loud end", speaker="Bob", **place),
        ]
        cut.custom = {"title": f"T {recording.id}", "bpm": 120}
        made.append(cut)
    return lhotse.CutSet.from_cuts(made)


def described(world: World) -> set[tuple[Any, ...]]:
    columns = "title, genre, bpm, description, artists"
    return {
        (*list(row.values())[:4], *row["artists"]) for row in world.answer(f"SELECT {columns} FROM tracks ORDER BY 1")
    }


EXPECTED = {(f"T take.{number}", "folk", 120.0, "a calm piece with a loud end", "Ann", "Bob") for number in range(3)}


@pytest.mark.parametrize("name", ["recordings.jsonl", "recordings.jsonl.gz"])
def test_a_recording_set_of_lhotse_ingests_the_recordings_that_it_names(name: str, tmp_path: Path) -> None:
    world = World(tmp_path)
    recordings(world).to_file(tmp_path / name)
    world.add("not named.flac", 9)
    world.source = str(tmp_path / name)
    assert world.run() == Counts(3, 0, 0)
    assert set(world.rows()) == {"0.flac", "1.flac", "2.flac"}
    assert world.run() == Counts(0, 3, 0)
    assert world.read == 0


@pytest.mark.parametrize("beside", [False, True])
def test_a_cut_set_describes_its_recordings_as_the_source_or_beside_it(beside: bool, tmp_path: Path) -> None:
    world = World(tmp_path)
    made = cuts(world)
    manifest = (world.music if beside else tmp_path) / "cuts.jsonl.gz"
    made.to_file(manifest)
    world.source = str(world.music if beside else manifest)
    assert world.run() == Counts(3, 0, 0)
    assert described(world) == EXPECTED


def test_a_shar_folder_is_read_in_place_with_the_facts_of_its_cuts(tmp_path: Path) -> None:
    world, shar = World(tmp_path), tmp_path / "shar"
    shar.mkdir()
    cuts(world).to_shar(shar, fields={"recording": "flac"}, shard_size=2)
    world.run()
    outside = {row["track_id"] for row in world.rows().values()}
    inside = World(tmp_path / "other")
    inside.source = str(shar)
    assert inside.run() == Counts(3, 0, 0)
    assert described(inside) == EXPECTED
    rows = inside.rows().values()
    assert all(row["uri"].startswith("tar://take.") and "recording.00000" in row["uri"] for row in rows)
    # lhotse encodes the sound again. FLAC's own digest of the same samples is the same, and so is the track.
    assert {row["track_id"] for row in rows} == outside


def test_a_cut_that_is_a_part_ingests_the_whole_recording_with_a_remark(tmp_path: Path) -> None:
    world = World(tmp_path)
    part = next(iter(cuts(world))).truncate(offset=0.1, duration=0.2)
    lhotse.CutSet.from_cuts([part]).to_file(tmp_path / "cuts.jsonl")
    world.source = str(tmp_path / "cuts.jsonl")
    assert world.run() == Counts(1, 0, 0)
    assert next(iter(world.rows().values()))["seconds"] == pytest.approx(0.6)
    assert ("cuts that are only a part of their recording; the whole recording is used", 1) in {
        (what, count) for what, _, count, _ in world.remarks()
    }


@pytest.mark.parametrize(
    ("sources", "told"),
    [
        ([{"type": "command", "channels": [0], "source": "touch /tmp/never"}], "of the kind command"),
        ([{"type": "file", "source": "a.wav"}, {"type": "file", "source": "b.wav"}], "in several files"),
        ([], "of the kind nothing"),
    ],
)
def test_recordings_that_are_not_one_file_are_not_read_and_no_command_is_run(sources: list[Any], told: str) -> None:
    notes: dict[str, str] = {}
    assert recording_row({"id": "r", "sources": sources, "duration": 1.0}, notes) == {}
    assert list(notes) == [f"lhotse recordings {told}; ignored"]


def test_a_manifest_of_lhotse_without_a_file_is_refused_with_the_reason(tmp_path: Path) -> None:
    row = {"id": "r", "sources": [{"type": "command", "channels": [0], "source": "sox"}], "duration": 1.0}
    write(tmp_path / "recordings.jsonl", json.dumps(row).encode())
    with pytest.raises(ValueError, match="expected a manifest that names recordings by path as the source, got"):
        list_sources([str(tmp_path / "recordings.jsonl")])


def test_a_missing_recording_of_a_manifest_is_a_reject(tmp_path: Path) -> None:
    world = World(tmp_path)
    recordings(world).to_file(tmp_path / "recordings.jsonl")
    (world.music / "1.flac").unlink()
    write(world.music / "2.flac", b"no sound")
    world.source = str(tmp_path / "recordings.jsonl")
    assert world.run() == Counts(1, 0, 2)
    assert {row["kind"] for row in world.rejects().values()} == {"missing", "unreadable"}


def test_samples_written_by_webdataset_are_ingested_and_paths_in_them_are_only_names(tmp_path: Path) -> None:
    world, outside = World(tmp_path), tmp_path / "outside.flac"
    world.music.mkdir()
    write(outside, encoded("FLAC", tones(2.0, 8, RATE), RATE))
    with webdataset.TarWriter(str(world.music / "a-000000.tar")) as tar:
        for number in range(2):
            sound = encoded("FLAC", tones(0.6, number, RATE), RATE)
            tar.write({"__key__": f"set/{number}", "flac": sound, "json": {"title": f"T {number}"}})
        inside = encoded("FLAC", tones(0.6, 7, RATE), RATE)
        tar.write({"__key__": str(outside.with_suffix("")), "flac": inside, "txt": "words"})
        tar.write({"__key__": "../outside", "flac": inside})
    assert world.run() == Counts(3, 0, 0)
    rows = {row["uri"].partition("::")[0].removeprefix("tar://"): row for row in world.rows().values()}
    assert set(rows) == {"set/0.flac", "set/1.flac", str(outside)}
    assert (rows["set/1.flac"]["title"], rows[str(outside)]["description"]) == ("T 1", "words")
    assert rows[str(outside)]["seconds"] == pytest.approx(0.6)
    assert ("recordings excluded by ingest.exclude", 1) in {(what, n) for what, _, n, _ in world.remarks()}
