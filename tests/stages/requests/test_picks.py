"""Picks: takes that a person refused by ear are made once more, and existing clips stay."""

import json
from pathlib import Path

import pytest

from schemas import Store
from stages import requests
from stages.pipeline.planning import plan_stage
from stages.pipeline.plans import ConfiguredStage
from stages.requests import NOT_IN_ORDER, Config
from tests.worlds.requests_world import context_for, rejects_of, rows_of, store_of_tracks, take_in, write

LINES = [{"name": f"n{number}", "description": "calm", "seconds": 4, "takes": 2} for number in range(3)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_of_tracks(tmp_path / "store")


@pytest.fixture
def order(tmp_path: Path) -> Path:
    return write(tmp_path / "order.jsonl", *LINES)


def write_picks(path: Path, *verdicts: tuple[str, int, str]) -> str:
    picks = [{"request_id": request, "take": take, "verdict": verdict} for request, take, verdict in verdicts]
    path.write_text(json.dumps({"format": "segue-picks-2", "store": "s", "picks": picks}))
    return str(path)


def takes(store: Store) -> dict[str, int]:
    return {row["name"]: row["takes"] for row in rows_of(store)}


def test_a_request_gets_one_more_take_for_each_refused_one(store: Store, order: Path, tmp_path: Path) -> None:
    take_in(store, order)
    before = {row["name"]: row for row in rows_of(store)}
    first, second, third = (before[f"n{number}"]["request_id"] for number in range(3))
    file = write_picks(
        tmp_path / "picks.json",
        (first, 1, "refuse"),
        (first, 2, "refuse"),
        (second, 1, "pick"),
        (third, 2, "refuse"),
    )
    take_in(store, order, Config(picks=file))
    assert takes(store) == {"n0": 4, "n1": 2, "n2": 3}
    # Only the number of takes changes: the ids, and so all existing clips, stay.
    assert all(row | {"takes": 2} == before[row["name"]] for row in rows_of(store))


def test_replacement_takes_may_be_refused_too_and_the_same_file_changes_nothing(
    store: Store, order: Path, tmp_path: Path
) -> None:
    take_in(store, order)
    first = rows_of(store)[0]["request_id"]
    file = write_picks(tmp_path / "picks.json", *((first, take, "refuse") for take in (1, 2, 3, 4)))
    take_in(store, order, Config(picks=file))
    assert takes(store)["n0"] == 6
    stage = ConfiguredStage("requests", requests, Config(picks=file))
    assert plan_stage(stage, context_for(store, order), by_name=False).make == 0


def test_a_plan_without_the_picks_says_that_it_would_drop_a_clip(store: Store, order: Path, tmp_path: Path) -> None:
    take_in(store, order)
    file = write_picks(tmp_path / "picks.json", (rows_of(store)[0]["request_id"], 1, "refuse"))
    take_in(store, order, Config(picks=file))
    plan = plan_stage(ConfiguredStage("requests", requests, Config()), context_for(store, order), by_name=False)
    assert any("1 clip" in notice for notice in plan.notices), plan.notices


def test_refused_takes_of_another_order_are_remarked(store: Store, order: Path, tmp_path: Path) -> None:
    take_in(store, order)
    first = rows_of(store)[0]["request_id"]
    file = write_picks(tmp_path / "picks.json", (first, 5, "refuse"), ("elsewhere", 1, "refuse"))
    stage = ConfiguredStage("requests", requests, Config(picks=file))
    remarks = {remark.what: remark for remark in plan_stage(stage, context_for(store, order), by_name=False).remarks}
    assert set(remarks[NOT_IN_ORDER].examples) == {f"{first}/5", "elsewhere/1"}
    take_in(store, order, Config(picks=file))
    assert takes(store) == {"n0": 2, "n1": 2, "n2": 2}


def test_a_line_with_more_takes_than_allowed_because_of_picks_is_refused(
    store: Store, order: Path, tmp_path: Path
) -> None:
    take_in(store, order)
    file = write_picks(tmp_path / "picks.json", (rows_of(store)[1]["request_id"], 2, "refuse"))
    take_in(store, order, Config(picks=file, max_takes=2))
    message = "takes: expected at most 2 (requests.max_takes), got 3 with the replacements"
    assert message in rejects_of(store)["line 2"]["message"]


def test_a_missing_file_of_picks_ends_the_run_before_anything_is_read(store: Store, order: Path) -> None:
    with pytest.raises(ValueError, match=r"expected picks as JSON or CSV at nowhere\.json"):
        take_in(store, order, Config(picks="nowhere.json"))
