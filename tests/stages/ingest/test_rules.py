"""Recordings that ingest withholds: those taken down, under any name, and those with a licence that the policy
refuses."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from schemas.storage.take_downs import TakeDowns
from schemas.tables import WITHHELD
from stages.ingest import Config
from stages.pipeline.contract import NOT_ACCEPTED
from tests.worlds.ingest_world import World

LICENCES = {"a.flac": "CC BY 4.0", "b.flac": "https://creativecommons.org/licenses/by-nc/4.0/", "c.flac": None}


def licensed(folder: Path, **fields: object) -> World:
    """A world of three recordings with different licences."""
    world = World(folder, **fields)
    for seed, (name, licence) in enumerate(LICENCES.items()):
        described = {"title": name[0]} | ({"license": licence} if licence else {})
        world.add(name, seed).with_suffix(".json").write_text(json.dumps(described))
    return world


def reasons(world: World) -> dict[str, str]:
    assert {row["kind"] for row in world.rejects().values()} <= {NOT_ACCEPTED}
    return {name: row["message"] for name, row in world.rejects().items()}


def test_a_policy_withholds_other_licences_and_another_policy_reads_no_sound(tmp_path: Path) -> None:
    world = licensed(tmp_path, licences={"allow": ["CC-BY"], "unknown": "refuse"})
    world.run()
    assert set(world.rows()) == {"a.flac"}
    assert reasons(world)["b.flac"].startswith("expected a licence in licences.allow (CC-BY), got 'https://creative")
    assert reasons(world)["c.flac"].startswith("expected a known licence (licences.unknown = refuse), got none")
    for policy, kept in (
        ({"deny": ["*-NC*"]}, "ac"),
        ({}, "abc"),
        ({"allow": ["CC-BY-NC-4.0"], "unknown": "refuse"}, "b"),
    ):
        world.config = Config(licences=policy)
        world.run()
        assert "".join(sorted(name[0] for name in world.rows())) == kept
        assert world.read == 0


def test_a_licence_that_is_added_later_lets_a_recording_in(tmp_path: Path) -> None:
    world = licensed(tmp_path, licences={"unknown": "refuse"})
    world.run()
    assert set(world.rows()) == {"a.flac", "b.flac"}
    (world.music / "c.json").write_text(json.dumps({"license": "CC0"}))
    world.run()
    assert set(world.rows()) == set(LICENCES)
    assert reasons(world) == {}


def test_unknown_licences_that_pass_give_one_remark(tmp_path: Path) -> None:
    world = licensed(tmp_path, licences={"allow": ["CC-BY"]})
    world.run()
    assert set(world.rows()) == {"a.flac", "c.flac"}
    assert ("tracks with an unknown licence, which licences.unknown accepts", "", 1, ["none"]) in world.remarks()


def test_without_a_policy_every_licence_passes_without_a_remark(tmp_path: Path) -> None:
    world = licensed(tmp_path)
    world.run()
    assert set(world.rows()) == set(LICENCES)
    assert not any("licence" in what for what, *_ in world.remarks())


def test_a_recording_taken_down_leaves_and_stays_out_under_any_name(tmp_path: Path) -> None:
    world = licensed(tmp_path)
    world.run()
    taken = world.rows()["a.flac"]
    TakeDowns(world.store).add([{"track_id": taken["track_id"], "title": "a", "reason": "asked by letter"}])
    world.run()
    assert set(world.rows()) == {"b.flac", "c.flac"}
    assert world.read == 0
    assert "asked by letter" in reasons(world)["a.flac"]

    sound = (world.music / "a.flac").read_bytes()
    for name in ("a.flac", "a.json"):
        (world.music / name).unlink()
    world.run()
    assert reasons(world) == {}
    (world.music / "again").mkdir()
    (world.music / "again" / "renamed.flac").write_bytes(sound)
    world.run()
    assert set(world.rows()) == {"b.flac", "c.flac"}
    assert "asked by letter" in reasons(world)["again/renamed.flac"]

    TakeDowns(world.store).remove([taken["track_id"]])
    world.run()
    assert set(world.rows()) == {"b.flac", "c.flac", "again/renamed.flac"}


def test_a_take_down_ranks_before_a_licence_and_a_licence_before_conditions(tmp_path: Path) -> None:
    world = licensed(tmp_path, licences={"deny": ["CC-BY"]}, accept=("seconds > 60",))
    world.run()
    assert world.rows() == {}
    assert "licences.deny" in reasons(world)["a.flac"]
    assert "seconds > 60" in reasons(world)["b.flac"]
    withheld = {row["title"]: row["track_id"] for row in world.store.read(WITHHELD, "v").to_pylist()}
    TakeDowns(world.store).add([{"track_id": withheld["a"], "reason": "asked"}])
    world.run()
    assert "not taken down" in reasons(world)["a.flac"]


def test_an_invalid_policy_is_refused_by_the_configuration() -> None:
    with pytest.raises(ValidationError, match="unknown"):
        Config(licences={"unknown": "perhaps"})
