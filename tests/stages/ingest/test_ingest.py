"""Ingest over several nights: recordings that are new, changed, retagged, moved or removed, and killed runs."""

import json
import os
import shutil
from pathlib import Path

import mutagen
import pyarrow.parquet as pq
import pytest

from schemas import Settings
from schemas.tables import REJECTS, TRACKS, WITHHELD
from schemas.weights import WeightsLibrary
from stages import ingest
from stages.ingest.artists import split_of
from stages.pipeline.contract import Context
from stages.pipeline.jobs import Counts
from stages.pipeline.planning import plan_stage
from stages.pipeline.plans import ConfiguredStage
from tests.worlds.ingest_world import World
from tests.worlds.recordings import write


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def _retag(path: Path, **tags) -> None:
    opened = mutagen.File(path)
    for name, value in tags.items():
        opened[name] = value
    opened.save()


def test_the_corpus_is_ingested_and_its_silent_file_is_refused_as_silent(corpus, tmp_path):
    world = World(tmp_path)
    world.source = str(corpus)
    audio = [path for path in corpus.rglob("*") if path.suffix in (".ogg", ".mp3")]
    counts = world.run()
    assert counts == Counts(len(audio) - 1, 0, 1)
    [reject] = world.store.read(REJECTS, "v").to_pylist()
    assert (reject["kind"], Path(reject["uri"]).name) == ("silent", "silence.ogg")
    rows = {Path(row["uri"]).name: row for row in world.store.read(TRACKS, "v").to_pylist()}
    first = rows["electro_1.mp3"]
    assert (first["format"], first["sample_rate"], first["channels"], first["frames"]) == ("mp3", 48_000, 2, 720_000)
    assert first["loudness"] == pytest.approx(-12.63, abs=0.05)
    assert first["title"] == "Enracinement"
    battle = rows["battle-epic.ogg"]
    assert (battle["artist"], battle["moods"], battle["instrument"]) == (
        "Doug Kaufman",
        ["epic", "fast"],
        "brass, drums",
    )
    assert (battle["licence"], battle["album"]) == ("GPL", "The Battle for Wesnoth OST")
    splits: dict[str, set] = {}
    for row in rows.values():
        splits.setdefault(row["artist"], set()).add(row["split"])
        assert row["warnings"] == []
        assert row["seconds"] == row["frames"] / row["sample_rate"]
    assert all(len(found) == 1 for found in splits.values())
    assert world.run() == Counts(0, len(audio) - 1, 1)
    assert world.read == 0


def test_silence_is_kept_if_the_limits_say_so(corpus, tmp_path):
    (tmp_path / "music").mkdir()
    shutil.copy(corpus / "orchestral" / "silence.ogg", tmp_path / "music")
    world = World(tmp_path, limits={"silent": "keep"})
    assert world.run() == Counts(1, 0, 0)
    row = world.rows()["silence.ogg"]
    assert (row["loudness"], row["silence"]) == (None, 1.0)


def test_one_new_file_reads_one_file_and_writes_one_shard(tmp_path):
    world = World(tmp_path, shard_size=3)
    for number in range(7):
        world.add(f"{number}.flac", number)
    assert world.run() == Counts(7, 0, 0)
    assert sorted(row["shard"] for row in world.rows().values()) == [0, 0, 0, 1, 1, 1, 2]
    folder = world.store.folder(TRACKS, "v")
    before = {name: world.store.read_bytes(f"{folder}/{name}") for name in world.store.files(folder)}
    world.add("00 first by name.flac", 99)
    assert world.run() == Counts(1, 7, 0)
    assert world.read == 1
    changed = [
        name for name in world.store.files(folder) if world.store.read_bytes(f"{folder}/{name}") != before.get(name)
    ]
    assert changed == ["shard=2.parquet"]
    assert world.rows()["00 first by name.flac"]["shard"] == 2


def test_excluding_a_folder_drops_its_rows_and_including_it_restores_them(world):
    world.add("a.flac", 1)
    world.add("stems/b.flac", 2)
    world.run()
    world.config = world.config.model_copy(update={"exclude": ("stems",)})
    assert world.run() == Counts(0, 1, 0)
    assert world.remarks() == [("folders excluded by ingest.exclude", "stems", 1, ["stems"])]
    world.config = world.config.model_copy(update={"exclude": ()})
    assert world.run() == Counts(1, 1, 0)
    assert world.remarks() == []


def test_several_sources_form_one_set_and_each_has_its_own_metadata(tmp_path):
    world = World(tmp_path)
    for folder, seed in (("one", 1), ("two", 2)):
        world.add(f"{folder}/a.flac", seed)
        write(world.music / folder / "metadata.csv", f"file_name,title\na.flac,from {folder}\n".encode())
    write(world.music / "three" / "a.flac", (world.music / "one" / "a.flac").read_bytes())
    world.source = tuple(str(world.music / folder) for folder in ("one", "two", "three"))
    assert world.run() == Counts(2, 0, 0)
    rows = {row["title"]: [Path(file["uri"]).parent.name for file in row["files"]] for row in world.rows().values()}
    assert rows == {"from one": ["one", "three"], "from two": ["two"]}


def test_a_second_run_opens_no_recording(world):
    world.add("a.flac")
    write(world.music / "bad.wav", b"bad")
    assert world.run() == Counts(1, 0, 1)
    assert world.run() == Counts(0, 1, 1)
    assert world.read == 0


def test_a_retagged_file_is_the_same_track_with_new_metadata_in_the_same_shard(tmp_path):
    world = World(tmp_path, shard_size=1)
    path = world.add("a.flac", 1)
    world.add("b.flac", 2)
    world.run()
    before = world.rows()["a.flac"]
    _retag(path, title="New", artist="Somebody", description="x" * 20_000)
    assert world.run() == Counts(1, 1, 0)
    assert world.read == 1
    after = world.rows()["a.flac"]
    assert (after["title"], after["artist"], after["shard"]) == ("New", "Somebody", before["shard"])
    assert after["track_id"] == before["track_id"]
    assert len(after["description"]) == 5_000
    assert "20,000" in after["warnings"][0]


def test_a_changed_sidecar_updates_the_row_and_reads_no_sound(world):
    path = world.add("a.flac", 1)
    world.add("b.flac", 2)
    _retag(path, title="from tags", album="kept")
    write(world.music / "a.json", json.dumps({"artist": "one"}).encode())
    world.run()
    state = path.stat()
    path.write_bytes(b"no sound any more".ljust(state.st_size, b"\0"))  # reading it would be a reject
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    write(world.music / "a.json", json.dumps({"artist": "two, longer", "title": "from sidecar", "bpm": "no"}).encode())
    assert world.run() == Counts(1, 1, 0)
    assert world.read == 0
    row = world.rows()["a.flac"]
    assert (row["artist"], row["title"], row["album"]) == ("two, longer", "from sidecar", "kept")
    assert "a.json: bpm: expected a number" in row["warnings"][0]
    os.remove(world.music / "a.json")
    write(world.music / "metadata.csv", b"file_name,artist\na.flac,three\n")
    assert world.run() == Counts(1, 1, 0)
    assert world.read == 0
    row = world.rows()["a.flac"]
    assert (row["artist"], row["title"], row["warnings"]) == ("three", "from tags", [])


NO_ARTIST_IN_TWO_SPLITS = "SELECT * FROM artists_in_two_splits"


def test_a_track_that_connects_two_groups_moves_rows_and_no_artist_is_in_two_splits(tmp_path):
    world = World(tmp_path, shard_size=2, valid=0.3, test=0.3)
    splits = {name: split_of(f"artist:{name}", 0.3, 0.3) for name in map(str, range(40))}
    train, valid = (next(name for name, split in splits.items() if split == wanted) for wanted in ("train", "valid"))
    for number, artist in enumerate((valid, train, f"{valid} feat. Nobody Else", train)):
        _retag(world.add(f"{number}.flac", number), artist=artist)
    world.run()
    held_out = {name: row["split"] for name, row in world.rows().items()}
    assert held_out["0.flac"] == held_out["2.flac"]
    assert world.answer(NO_ARTIST_IN_TWO_SPLITS) == []
    _retag(world.add("4.flac", 4), artist=f"{train} & {valid}")
    moved = sum(split != "train" for split in held_out.values())
    assert world.run() == Counts(1 + moved, 4 - moved, 0)
    assert world.read == 1
    assert {row["split"] for row in world.rows().values()} == {"train"}
    assert world.answer(NO_ARTIST_IN_TWO_SPLITS) == []
    os.remove(world.music / "4.flac")
    world.run()
    assert {row["split"] for row in world.rows().values()} == {"train"}  # once in training, never held out


def test_a_changed_paraphrase_changes_the_training_data_and_reads_no_sound(world):
    world.add("a.flac", 1)
    write(world.music / "a.json", json.dumps({"description": "A waltz", "paraphrases": ["In three", "Dance"]}).encode())
    world.run()
    assert world.rows()["a.flac"]["paraphrases"] == ["In three", "Dance"]
    before = world.store.footer(TRACKS, "v", "0")
    write(world.music / "a.json", json.dumps({"description": "A waltz", "paraphrases": ["In three"]}).encode())
    assert world.run() == Counts(1, 0, 0)
    assert world.read == 0
    after = world.store.footer(TRACKS, "v", "0")
    assert after.content != before.content  # which training reads
    assert after.output_key == before.output_key  # from which chroma, clap and tokens are made


def test_the_same_content_at_two_paths_is_one_track(world):
    first = world.add("b.flac", 1)
    write(world.music / "b.json", b'{"title": "from b", "genre": "jazz"}')
    world.run()
    shutil.copy(first, world.music / "a.flac")
    _retag(world.music / "a.flac", title="from a")
    assert world.run() == Counts(1, 0, 0)
    [row] = world.rows().values()
    assert row["uri"] == str(world.music / "a.flac")
    assert [Path(place["uri"]).name for place in row["files"]] == ["a.flac", "b.flac"]
    assert (row["title"], row["genre"]) == ("from a", "jazz")
    os.remove(world.music / "a.flac")
    assert world.run() == Counts(1, 0, 0)
    assert world.read == 0
    [row] = world.rows().values()
    assert (row["uri"], row["title"]) == (str(first), "from b")


def test_a_removed_file_that_returns_is_the_same_track(tmp_path):
    world = World(tmp_path, shard_size=2)
    for number in range(3):
        world.add(f"{number}.flac", number)
    write(world.music / "bad.wav", b"bad")
    world.run()
    before = world.rows()["0.flac"]
    data = (world.music / "0.flac").read_bytes()
    os.remove(world.music / "0.flac")
    os.remove(world.music / "bad.wav")
    assert world.run() == Counts(0, 2, 0)
    assert sorted(world.rows()) == ["1.flac", "2.flac"]
    assert world.rejects() == {}
    write(world.music / "0.flac", data)
    assert world.run() == Counts(1, 2, 0)
    after = world.rows()["0.flac"]
    assert after["track_id"] == before["track_id"]
    assert (before["shard"], after["shard"]) == (0, 1)  # the gap in a closed shard stays


def test_a_moved_file_keeps_its_row_and_shard(tmp_path):
    world = World(tmp_path, shard_size=1)
    world.add("a.flac", 1)
    world.add("b.flac", 2)
    world.run()
    os.makedirs(world.music / "z")
    os.rename(world.music / "a.flac", world.music / "z" / "moved.flac")
    assert world.run() == Counts(1, 1, 0)
    row = world.rows()["z/moved.flac"]
    assert (row["shard"], len(row["files"])) == (0, 1)


def test_a_file_with_changed_sound_is_another_track(world):
    path = world.add("a.flac", 1)
    world.run()
    [before] = world.rows().values()
    world.add("a.flac", 2)
    os.utime(path, ns=(5, 5))
    assert world.run() == Counts(1, 0, 0)
    [after] = world.rows().values()
    assert after["track_id"] != before["track_id"]


def test_a_rejected_file_is_read_again_after_it_changed(world):
    world.add("good.flac")
    path = write(world.music / "a.wav", b"bad")
    world.run()
    assert world.rejects()["a.wav"]["kind"] == "unreadable"
    world.add("a.wav", 5, form="WAV")
    os.utime(path, ns=(5, 5))
    assert world.run() == Counts(1, 1, 0)
    assert world.rejects() == {}


def test_tracks_in_a_folder_that_cannot_be_read_one_night_are_kept(world, monkeypatch):
    world.add("a.flac", 1)
    world.add("closed/b.flac", 2)
    write(world.music / "closed" / "bad.wav", b"bad")
    world.run()
    before = world.rows()
    opened = os.open

    def refusing(path, *arguments, **named):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refusing)
        world.run()
        assert world.rows() == before
        assert world.rejects()["closed"]["kind"] == "unreadable"
        assert world.rejects()["closed/bad.wav"]["kind"] == "unreadable"
    world.run()
    assert world.read == 0
    assert world.rows() == before
    assert list(world.rejects()) == ["closed/bad.wav"]


def test_plans_agree_with_the_counts_of_runs(world):
    stage = ConfiguredStage("ingest", ingest, world.config)

    def plan():
        found = plan_stage(stage, world.context(), True)
        return found.make, found.reuse, found.drop

    for number in range(3):
        world.add(f"{number}.flac", number)
    assert plan() == (3, 0, 0)
    world.run()
    assert plan() == (0, 3, 0)
    os.remove(world.music / "0.flac")
    write(world.music / "1.json", b'{"title": "x"}')
    world.add("new.flac", 9)
    os.mkfifo(world.music / "pipe.wav")
    assert plan() == (3, 1, 1)
    assert world.run() == Counts(2, 1, 1)
    assert plan() == (0, 3, 0)


def test_a_plan_without_changes_reads_only_the_columns_that_it_compares(tmp_path):
    world = World(tmp_path, accept=["seconds >= 0.55"])
    for number in range(3):
        world.add(f"{number}.flac", number)
    world.add("short.flac", 9, seconds=0.5)
    world.run()
    stage, needed = ConfiguredStage("ingest", ingest, world.config), {*ingest.PLANNING_COLUMNS, "track_id", "shard"}
    for table in (TRACKS, WITHHELD):
        path = Path(world.store.path(world.store.shard_path(table, "v", "0")))
        damage_columns(path, but={*needed, "uri", "seconds"})
        for name in ("files.tags", "title", "loudness"):
            with pytest.raises(ValueError, match="is damaged"):
                world.store.read(table, "v", columns=[name])
    plan = plan_stage(stage, world.context(), True)
    assert (plan.jobs, plan.make, plan.reuse, plan.refused) == ((), 0, 3, 1)


def damage_columns(path: Path, but: set[str]) -> None:
    """Damage all columns of a Parquet file except some, and all fields of records except some."""
    data, metadata = bytearray(path.read_bytes()), pq.read_metadata(path)
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if {column.path_in_schema.split(".")[0], column.path_in_schema.replace(".list.element", "")} & but:
                continue
            start = column.dictionary_page_offset or column.data_page_offset
            data[start + column.total_compressed_size - 1] ^= 0xFF
    path.write_bytes(data)


def test_a_missing_or_emptied_source_fails_and_drops_nothing(world):
    path = world.add("a.flac")
    world.run()
    os.remove(path)
    with pytest.raises(ValueError, match="mounted"):
        world.run()
    shutil.rmtree(world.music)
    with pytest.raises(ValueError, match="does not exist"):
        world.run()
    assert world.store.read(TRACKS, "v").num_rows == 1
    settings = Settings(store=world.store.url)
    context = Context(world.store, settings, "run", "ingest", "v", {}, WeightsLibrary(world.store))
    with pytest.raises(ValueError, match="--source"):
        plan_stage(ConfiguredStage("ingest", ingest, world.config), context, True)


def test_a_source_with_only_bad_files_has_rejects_and_no_rows(world):
    write(world.music / "a.wav", b"bad")
    assert world.run() == Counts(0, 0, 1)
    assert world.run() == Counts(0, 0, 1)
    assert world.read == 0
