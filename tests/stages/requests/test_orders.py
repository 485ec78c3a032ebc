"""Orders: dropped and refused requests are reported before anything of the last order is changed."""

from pathlib import Path

import pytest

from schemas import Settings, Store
from schemas.queries.database import query
from schemas.storage.drafts import Drafts
from schemas.tables import CHECKS, REQUESTS
from stages import requests
from stages.pipeline.planning import plan_stage
from stages.pipeline.plans import ConfiguredStage, Plan
from stages.pipeline.runner import StageFailed
from stages.requests import Config
from stages.requests.orders import accepted_lines
from tests.worlds.requests_world import context_for, rejects_of, rows_of, store_of_tracks, take_in, write

STRICT = {"accept_refused": 0, "drop_requests": False}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_of_tracks(tmp_path / "store")


def plan(store: Store, file: Path, **settings: object) -> Plan:
    stage = ConfiguredStage("requests", requests, Config())
    return plan_stage(stage, context_for(store, file, **(STRICT | settings)), by_name=False)


def names(store: Store) -> dict[str, str | None]:
    """The names of the current order, and for each the reason why it is stale."""
    return {row["name"]: row["stale"] for row in rows_of(store)}


LINES = [{"name": f"n{number}", "description": "calm", "seconds": 4, "takes": 3} for number in range(4)]
TYPO = [*LINES[:2], LINES[2] | {"seconds": -1}, LINES[3]]


def test_a_typo_leaves_the_last_order_unchanged_and_names_the_line_and_the_reason(store: Store, tmp_path: Path) -> None:
    take_in(store, write(tmp_path / "r.jsonl", *LINES), **STRICT)
    before = rows_of(store)
    with pytest.raises(StageFailed) as failure:
        take_in(store, write(tmp_path / "r.jsonl", *TYPO), **STRICT)
    assert "refused 1 of 4 lines" in str(failure.value)
    assert "line 3: seconds: expected greater than 0 seconds, got -1" in str(failure.value)
    assert "--accept-refused 1" in str(failure.value)
    assert rows_of(store) == before
    assert rejects_of(store)["line 3"]["kind"] == "bad value"
    assert Drafts(store, REQUESTS, "r").drafted() == []


def test_an_accepted_typo_keeps_the_earlier_request_marked_as_stale(store: Store, tmp_path: Path) -> None:
    take_in(store, write(tmp_path / "r.jsonl", *LINES), **STRICT)
    before = {row["name"]: row for row in rows_of(store)}
    result = take_in(store, write(tmp_path / "r.jsonl", *TYPO), **(STRICT | {"accept_refused": 1}))
    assert (result.counts.made, result.counts.reused, result.counts.refused) == (0, 4, 1)
    after = {row["name"]: row for row in rows_of(store)}
    assert after["n2"] | {"stale": None} == before["n2"]
    assert after["n2"]["stale"] == "line 3: seconds: expected greater than 0 seconds, got -1"
    assert store.footer(REQUESTS, "r", "0").output_key  # its key is in the shard, so its clips are still wanted
    take_in(store, write(tmp_path / "r.jsonl", *LINES), **STRICT)
    assert {row["name"]: row for row in rows_of(store)} == before


def test_accepting_a_refused_line_once_does_not_accept_it_in_later_runs(store: Store, tmp_path: Path) -> None:
    file = write(tmp_path / "r.jsonl", *TYPO)
    take_in(store, file, **(STRICT | {"accept_refused": 0.25}))
    assert plan(store, file, accept_refused=0.25).jobs == ()
    with pytest.raises(StageFailed, match="refused 1 of 4"):
        take_in(store, file, **STRICT)


@pytest.mark.parametrize(("accept", "accepted"), [(0, 0), (0.24, 0), (0.25, 1), (0.999, 3), (1, 1), (3, 3), (9, 9)])
def test_a_number_of_lines_or_a_share_can_be_accepted(accept: float, accepted: int) -> None:
    assert accepted_lines(Settings(accept_refused=accept).accept_refused, 4) == accepted


@pytest.mark.parametrize("accept", [-1, 1.5])
def test_neither_a_number_of_lines_nor_a_share_is_refused_by_the_settings(accept: float) -> None:
    with pytest.raises(ValueError, match="accept_refused"):
        Settings(accept_refused=accept)


def test_a_wrong_file_does_not_replace_an_order(store: Store, tmp_path: Path) -> None:
    take_in(store, write(tmp_path / "r.jsonl", *({"name": f"n{number}", "takes": 2} for number in range(26))), **STRICT)
    before = rows_of(store)
    wrong = write(tmp_path / "wrong.jsonl", *({"description": f"other {number}"} for number in range(19)))
    planned = plan(store, wrong)
    assert (planned.make, planned.drop, planned.reuse) == (19, 26, 0)
    assert planned.notices[-1].startswith("would drop 52 clips of 26 requests of the last order (n0, n1, ")
    assert planned.notices[-1].endswith(" and 6 more)")
    with pytest.raises(StageFailed, match=r"would drop 52 clips of 26 requests.*--drop"):
        take_in(store, wrong, **STRICT)
    assert rows_of(store) == before
    failed = "SELECT \"check\", value FROM checks WHERE NOT passed AND severity = 'error'"
    checks = query(store, failed).to_pylist()
    assert checks == [{"check": "dropped", "value": 52.0}]
    assert store.shards(CHECKS, "1")
    take_in(store, wrong, **(STRICT | {"drop_requests": True}))
    assert len(rows_of(store)) == 19


def test_the_default_set_does_not_silently_replace_an_order(store: Store, tmp_path: Path) -> None:
    take_in(store, write(tmp_path / "r.jsonl", *LINES), **STRICT)
    with pytest.raises(StageFailed, match="would drop 12 clips of 4 requests"):
        take_in(store, None, **STRICT)
    assert len(rows_of(store)) == 4


def test_fewer_takes_and_changed_lines_drop_clips_but_more_takes_and_new_lines_do_not(
    store: Store, tmp_path: Path
) -> None:
    take_in(store, write(tmp_path / "r.jsonl", *LINES), **STRICT)
    fewer = write(tmp_path / "fewer.jsonl", *LINES[:3], LINES[3] | {"takes": 1})
    assert "would drop 2 clips of 1 request of the last order (n3)" in plan(store, fewer).notices
    changed = write(tmp_path / "changed.jsonl", *LINES[:3], LINES[3] | {"seconds": 5})
    assert "would drop 3 clips of 1 request of the last order (n3)" in plan(store, changed).notices
    more = write(tmp_path / "more.jsonl", {"name": "new"}, *LINES[:3], LINES[3] | {"takes": 5, "title": "T"})
    take_in(store, more, **STRICT)
    assert list(names(store)) == ["new", "n0", "n1", "n2", "n3"]


def test_a_failed_order_leaves_no_trace_in_the_next(store: Store, tmp_path: Path) -> None:
    config = Config(shard_size=2)
    good = write(tmp_path / "r.jsonl", *LINES)
    take_in(store, good, config, **STRICT)
    footers = {shard: store.footer(REQUESTS, "r", shard) for shard in store.shards(REQUESTS, "r")}
    with pytest.raises(StageFailed):
        take_in(
            store, write(tmp_path / "other.jsonl", {"name": "x"}, {"name": "n3", "takes": "many"}), config, **STRICT
        )
    result = take_in(store, good, config, **STRICT)
    assert (result.counts.made, result.counts.reused, result.counts.refused) == (0, 4, 0)
    assert {shard: store.footer(REQUESTS, "r", shard) for shard in store.shards(REQUESTS, "r")} == footers
    assert rejects_of(store) == {}


def test_drafts_of_a_killed_run_do_not_enter_the_next_order(store: Store, tmp_path: Path) -> None:
    good = write(tmp_path / "r.jsonl", *LINES)
    take_in(store, good, **STRICT)
    before = rows_of(store)
    drafts = Drafts(store, REQUESTS, "r")
    drafts.write("0", store.read(REQUESTS, "r").slice(0, 1), "of a killed run")
    assert plan(store, good).jobs == ("all",)
    take_in(store, good, **STRICT)
    assert rows_of(store) == before
    assert drafts.drafted() == []


def test_a_line_without_a_name_is_recognised_after_lines_are_inserted_before_it(store: Store, tmp_path: Path) -> None:
    lines = [{"description": word, "takes": 2} for word in ("one", "two", "three", "four")]
    take_in(store, write(tmp_path / "r.jsonl", *lines), **STRICT)
    file = write(tmp_path / "r.jsonl", {"description": "new"}, *lines[:2], lines[2] | {"takes": 0}, lines[3])
    assert not any("would drop" in line for line in plan(store, file).notices)
    take_in(store, file, **(STRICT | {"accept_refused": 1}))
    stale = {row["description"]: row["stale"] is not None for row in rows_of(store)}
    assert stale == {"new": False, "one": False, "two": False, "three": True, "four": False}
    broken = write(tmp_path / "r.jsonl", {"description": "new"}, *lines[:2], "{broken", lines[3])
    take_in(store, broken, **(STRICT | {"accept_refused": 1}))
    assert next(row for row in rows_of(store) if row["description"] == "three")["stale"].startswith("line 4: ")


def test_a_refused_line_does_not_keep_clips_of_another_name(store: Store, tmp_path: Path) -> None:
    take_in(store, write(tmp_path / "r.jsonl", *LINES), **STRICT)
    file = write(tmp_path / "r.jsonl", *LINES[:3], {"name": "other", "seconds": -1})
    assert "would drop 3 clips of 1 request of the last order (n3)" in plan(store, file).notices


def test_a_plan_lists_every_refused_line_with_its_full_reason_and_not_as_work(store: Store, tmp_path: Path) -> None:
    long = {"seconds": "eight and a half, or perhaps nine, who knows", "top_p": "of no importance", "key": "x" * 70}
    file = write(tmp_path / "r.jsonl", *LINES, *(long | {"name": f"bad{number}"} for number in range(40)))
    planned = plan(store, file)
    assert (planned.make, planned.refused, len(planned.rejects)) == (4, 40, 40)
    whole = "'eight and a half, or perhaps nine, who knows'"
    assert all(whole in reject.message and "'" + "x" * 70 + "'" in reject.message for reject in planned.rejects)
    assert [check.check for check in planned.checks if not check.passed] == ["refused"]


def test_takes_that_would_be_equal_are_remarked(store: Store, tmp_path: Path) -> None:
    greedy = [{"name": "a", "temperature": 0, "takes": 2}, {"name": "b", "top_k": 1, "takes": 3}]
    drawn = [
        {"name": "c", "top_k": 1, "top_p": 0.9, "takes": 2},
        {"name": "d", "temperature": 0},
        {"name": "e", "takes": 2},
    ]
    (remark,) = plan(store, write(tmp_path / "r.jsonl", *greedy, *drawn)).remarks
    assert (remark.what, remark.count) == (requests.EQUAL_TAKES, 2)
    assert remark.examples == ("line 1: 2 takes", "line 2: 3 takes")


def test_a_clip_too_short_for_its_loudness_is_refused_with_the_reason(store: Store, tmp_path: Path) -> None:
    take_in(store, write(tmp_path / "r.jsonl", {"seconds": 0.001}, {"seconds": 0.4}))
    assert [row["seconds"] for row in rows_of(store)] == [0.4]
    assert (
        "expected at least 0.4 seconds (requests.min_seconds), because shorter sound has no loudness, got 0.001"
        in (rejects_of(store)["line 1"]["message"])
    )


def test_the_interpretation_of_a_file_is_remarked(store: Store, tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("text;duration\ncalm;2,5\n")
    take_in(store, tmp_path / "r.csv")
    said = query(store, "SELECT what FROM remarks WHERE stage = 'requests' ORDER BY what").column("what").to_pylist()
    assert said == [
        "cells are separated by semicolons",
        "columns: 'text' is read as description, 'duration' is read as seconds",
        "numbers have decimal commas",
    ]
