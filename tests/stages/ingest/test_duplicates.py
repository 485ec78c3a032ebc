"""Near-duplicates: copies of a recording share a split, in every form, and recordings in training stay there."""

import numpy as np
import pytest

from flows.recipes.presets import miniature
from schemas.tables import PRINTS
from stages.analysis.copies import compare
from stages.ingest import Config, duplicates
from stages.ingest.artists import ArtistGroups, copy_keys, group_keys, split_of
from tests.worlds.ingest_world import World
from tests.worlds.planted_copies import PLANTS, RATE, piece, print_of
from tests.worlds.recordings import encoded, write

COPIES = ("shifted by part of a frame", "1.7 s cut off its beginning", "as Ogg Vorbis", "3 dB quieter", "1 % faster")


def add(world: World, name: str, sound: np.ndarray) -> None:
    write(world.music / f"{name}.flac", encoded("FLAC", sound[None], RATE))


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path, valid=0.4, test=0.3, shard_size=4)
    for number in range(5):
        add(world, f"piece {number}", piece(number))
    world.run()
    return world


def groups(world: World) -> dict[str, set[str]]:
    """The recordings that each recording is a copy of, by name."""
    names = {row["track_id"]: name.removesuffix(".flac") for name, row in world.rows().items()}
    return {names[row["track_id"]]: {names[each] for each in row["copies_of"]} for row in world.rows().values()}


def connected(copies: dict[str, set[str]]) -> list[set[str]]:
    """The groups of recordings that are copies of each other, directly or through others."""
    found: list[set[str]] = []
    for name, others in copies.items():
        group = {name, *others}.union(*(each for each in found if each & {name, *others}))
        found = [each for each in found if not each & group] + [group]
    return found


def test_copies_of_a_recording_are_found_and_share_its_split_and_distinct_pieces_are_not_copies(world):
    assert not any(groups(world).values())
    for name in COPIES:
        add(world, name, PLANTS[name](piece(3), piece(4), 0.3))
    world.run()
    found = groups(world)
    assert {"piece 3", *COPIES} in connected(found)
    assert sorted(map(len, connected(found))) == [1, 1, 1, 1, 1 + len(COPIES)]
    assert len({world.rows()[f"{name}.flac"]["split"] for name in ("piece 3", *COPIES)}) == 1
    assert ("tracks that sound like copies of others, and are in the same split", 5) in {
        (what, count) for what, _, count, _ in world.remarks()
    }


def test_a_lossy_copy_of_a_sparse_piece_is_found_by_the_default_threshold_but_not_the_miniatures(tmp_path):
    """What a codec leaves of few soft notes has less in common with them than two pieces on the same chords have."""
    sound = piece(607)
    copies = {"original": sound, "copy": PLANTS["as MP3"](sound, sound, 0.3)}
    likeness = compare(print_of(copies["copy"]), print_of(sound)).likeness(len(sound) / RATE, len(sound) / RATE)
    assert 0.4 <= likeness < 0.6
    for limit, copied in ((Config().near_duplicates, 1), (miniature()["ingest"]["near_duplicates"], 0)):
        world = World(tmp_path / f"{limit}", near_duplicates=limit)
        for name, each in copies.items():
            add(world, name, each)
        world.run()
        assert sum(len(row["copies_of"]) for row in world.rows().values()) == copied


def test_a_copy_in_training_moves_a_held_out_recording_there_and_the_move_is_reported(world):
    before = {name: row["split"] for name, row in world.rows().items()}
    held_out = next(name for name, split in before.items() if split == "test")
    sound = piece(int(held_out.split()[1].removesuffix(".flac")))
    for offset in range(1, 7):
        add(world, f"copy {offset}", sound[100 * offset :])
    told: list[str] = []
    world.tell = told.extend
    world.run()
    rows = world.rows()
    connected = [rows[name] for name in rows if name == held_out or name.startswith("copy")]
    assert "train" in {split_of(f"track:{row['track_id']}", 0.4, 0.3) for row in connected}
    assert {row["split"] for row in connected} == {"train"}
    assert told == [
        "1 recording moves to another split, because of new recordings that sound like copies: "
        f"{rows[held_out]['track_id'][:12]} (test to train)"
    ]
    assert {name: rows[name]["split"] for name in before if name != held_out} == {
        name: split for name, split in before.items() if name != held_out
    }


def test_two_copies_of_a_removed_recording_stay_together(world):
    add(world, "copy a", PLANTS["3 dB quieter"](piece(1), piece(0), 0))
    world.run()
    add(world, "copy b", PLANTS["as Ogg Vorbis"](piece(1), piece(0), 0))
    world.run()
    (world.music / "piece 1.flac").unlink()
    world.run()
    rows = world.rows()
    assert rows["copy a.flac"]["split"] == rows["copy b.flac"]["split"]
    assert set(world.store.read(PRINTS, "v").column("track_id").to_pylist()) == {
        row["track_id"] for row in rows.values()
    }


def test_the_run_after_one_that_failed_before_comparing_sounds_compares_them(world, tmp_path, monkeypatch):
    calm = World(tmp_path / "calm", valid=0.4, test=0.3, shard_size=4)
    calm.music, calm.source = world.music, world.source
    for name in COPIES:
        add(world, name, PLANTS[name](piece(3), piece(4), 0.3))

    def fails(*arguments):
        raise OSError("the disk failed")

    with monkeypatch.context() as patch:
        patch.setattr("stages.ingest.find_copies", fails)
        with pytest.raises(OSError, match="the disk failed"):
            world.run()
    world.run()
    assert world.read == 0
    calm.run()
    assert groups(calm).keys() == groups(world).keys()
    assert sum(map(len, groups(world).values())) == sum(map(len, groups(calm).values()))
    assert {name: row["split"] for name, row in world.rows().items()} == {
        name: row["split"] for name, row in calm.rows().items()
    }


def test_a_link_has_no_split_of_its_own_and_never_moves_a_track_out_of_training():
    draw = ArtistGroups(0.4, 0.3)
    names = {
        split: next(f"{n}" for n in range(99) if split_of(f"artist:{n}", 0.4, 0.3) == split)
        for split in ("train", "valid", "test")
    }
    for split, name in names.items():
        draw.connect([*group_keys([name], name), *copy_keys(name, ())], None)
        assert draw.split(f"artist:{name}") == split
    draw.connect([*group_keys([names["valid"]], "x"), *copy_keys("x", [names["test"]])], None)
    assert {draw.split(f"artist:{names[split]}") for split in ("valid", "test")} == {"valid"}
    draw.connect([*group_keys([], "y"), *copy_keys("y", [names["train"], names["test"]])], None)
    assert {draw.split(f"artist:{name}") for name in names.values()} == {"train"}


def test_recordings_ingested_one_by_one_in_blocks_or_at_once_form_the_same_groups(world, tmp_path, monkeypatch):
    for name in COPIES:
        add(world, name, PLANTS[name](piece(3), piece(4), 0.3))
        world.run()
    splits = {name: row["split"] for name, row in world.rows().items()}
    for blocks in (2, duplicates.BLOCK):
        monkeypatch.setattr(duplicates, "BLOCK", blocks)
        at_once = World(tmp_path / f"in blocks of {blocks}", valid=0.4, test=0.3, shard_size=4)
        at_once.music, at_once.source = world.music, world.source
        at_once.run()
        assert {frozenset(group) for group in connected(groups(at_once))} == {
            frozenset(group) for group in connected(groups(world))
        }
        assert {name: row["split"] for name, row in at_once.rows().items()} == splits


def test_without_comparison_no_copies_are_stated(tmp_path):
    world = World(tmp_path, near_duplicates=None)
    for name in ("a", "b"):
        add(world, name, piece(0)[len(name) * (name == "b") :])
    world.run()
    assert [row["copies_of"] for row in world.rows().values()] == [None, None]
