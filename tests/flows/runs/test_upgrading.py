"""A release that changed a stage: what would be made again is told and waits for a word, is made, or is kept."""

import pytest

from flows.runs import upgrading
from flows.runs.running import Run, RunPlan, run_stages
from flows.runs.upgrading import UpgradeWaits, settle, settled_plan
from schemas import Config, Settings, Store
from schemas.queries.database import query
from stages.pipeline.plans import ConfiguredStage
from tests.worlds.tiny_stages import Knobs, Training, make_mapping, make_source, make_training


class NewKnobs(Knobs):
    """As a release leaves it that gave the stage one more knob."""

    width: int = 3


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A store that three stages have filled, and what plans a run with code of other versions."""
    monkeypatch.setattr(upgrading, "ASK_SECONDS", -1.0)
    calls: list[str] = []
    trainings: list[str] = []

    def plan(version=1, knobs=None, names=("source", "mapping", "training"), tracks="abcd", outdated=None, **settings):
        mapping = make_mapping(calls)
        mapping.VERSION, mapping.OUTDATED = version, outdated or {}
        stages = [
            ConfiguredStage("source", make_source(list(tracks)), Knobs()),
            ConfiguredStage("mapping", mapping, knobs or Knobs()),
            ConfiguredStage("training", make_training(trainings), Training()),
        ]
        return RunPlan(stages, list(names), Settings(store=str(tmp_path), **settings))

    run_stages(Run(plan()))
    del calls[:], trainings[:]
    plan.calls, plan.trainings = calls, trainings
    plan.store = Store(str(tmp_path))
    return plan


def made(settled):
    run = Run(settled.plan, settled.stage_plans)
    run_stages(run)
    return {result.stage: result.counts.made for result in run.results}


def why(settled):
    return {plan.stage: plan.reason for plan in settled.stage_plans}


def test_a_run_of_the_code_that_made_the_store_has_nothing_to_settle(world):
    settled = settle(world())
    assert (settled.lines, settled.waits) == ((), False)
    assert made(settled) == {"source": 0, "mapping": 0, "training": 0}


def test_a_raised_version_is_named_with_what_follows_and_how_long_it_takes_and_waits_before_any_work(world):
    settled = settle(world(2))
    assert settled.waits
    assert settled.lines[0] == "mapping: version 1 -> 2, 4 rows again"
    assert settled.lines[1] == "after them training"
    assert settled.lines[2].startswith("that takes about ")
    assert why(settled)["mapping"] == "version 1 -> 2"
    with pytest.raises(UpgradeWaits, match=r"mapping: version 1 -> 2.*on_upgrade=remake.*on_upgrade=keep.*nothing was"):
        settled_plan(world(2))
    assert world.calls == []


def test_remake_makes_it_again(world):
    settled = settled_plan(world(2, on_upgrade="remake"))
    assert made(settled) == {"source": 0, "mapping": 4, "training": 1}


def test_keep_goes_on_with_what_is_there_and_new_rows_join_it_recorded_as_made_by_the_code_of_now(world):
    settled = settled_plan(world(2, on_upgrade="keep"))
    assert settled.lines == ["mapping: kept as it is, though a release changed it (version 1 -> 2)"]
    assert made(settled) == {"source": 0, "mapping": 0, "training": 0}
    more = settled_plan(world(2, tracks="abcde", on_upgrade="keep"))
    assert made(more)["mapping"] == 1
    assert world.calls == ["e"]
    assert query(world.store, "SELECT count(*) AS n FROM chroma").to_pylist() == [{"n": 5}]
    newer = """
        SELECT DISTINCT stage, versions.stage_version AS was, runs.stage_version AS is_now
        FROM runs JOIN versions USING (fingerprint, stage) WHERE runs.stage_version > versions.stage_version"""
    assert query(world.store, newer).to_pylist() == [{"stage": "mapping", "was": 1, "is_now": 2}]


def test_a_knob_that_a_release_brought_is_an_upgrade_and_one_that_a_user_turned_is_none(world):
    assert settle(world(knobs=NewKnobs())).lines[0] == "mapping: new knobs width, 4 rows again"
    turned = settle(world(knobs=Knobs(level=2.0)))
    assert (turned.lines, turned.waits) == ((), False)
    assert settle(world(2, knobs=Knobs(level=2.0))).lines == ()


def test_a_group_of_knobs_that_a_user_turns_on_or_off_is_no_upgrade_and_is_never_kept_off(world):
    class Signature(Config):
        certificate: str = "development"

    class Signed(Knobs):
        credentials: Signature | None = None

    def settled(credentials, level=2.0):
        return settle(world(knobs=Signed(level=level, credentials=credentials), on_upgrade="keep"))

    assert made(settled(None))["mapping"] == 4
    on = settled(Signature())
    assert list(on.lines) == []
    assert made(on)["mapping"] == 4
    assert made(settled(Signature(), level=3.0))["mapping"] == 4
    assert list(settled(None, level=3.0).lines) == []


def test_only_rows_that_are_there_count_as_made_again_and_those_of_new_things_wait_for_no_word(world):
    assert settle(world(2, tracks="abcdefg")).lines[0] == "mapping: version 1 -> 2, 4 rows again"
    anew = settle(world(2, tracks="wxyz"))
    assert (list(anew.lines), anew.waits) == ([], False)
    assert made(anew)["mapping"] == 4


def test_rows_that_the_code_of_now_cannot_go_on_with_are_never_kept_and_that_is_said(world):
    outdated = {1: "its keys meant something else"}
    for policy in ("ask", "keep"):
        with pytest.raises(UpgradeWaits) as waiting:
            settled_plan(world(2, outdated=outdated, on_upgrade=policy))
        text = str(waiting.value)
        assert (
            "mapping: version 1 -> 2 (its keys meant something else, so that it cannot be kept), 4 rows again" in text
        )
        assert "on_upgrade=remake to make it again, for it cannot be kept" in text
    with pytest.raises(UpgradeWaits):
        settled_plan(world(2, outdated=outdated), lambda lines: "keep")
    with pytest.raises(UpgradeWaits, match=r"is not read any more \(its keys.*segue run mapping"):
        settled_plan(world(2, names=("training",), outdated=outdated, on_upgrade="keep"))
    assert world.calls == []
    assert made(settled_plan(world(2, outdated=outdated, on_upgrade="remake")))["mapping"] == 4


def test_what_a_later_release_changed_is_kept_where_only_older_rows_are_outdated(world):
    settled = settled_plan(world(2, outdated={0: "its keys meant something else"}, on_upgrade="keep"))
    assert made(settled)["mapping"] == 0


def test_a_person_is_asked_once_and_their_word_holds(world):
    shown: list[str] = []

    def ask(lines):
        shown.extend(lines)
        return "keep"

    assert made(settled_plan(world(2), ask))["mapping"] == 0
    assert shown[0].startswith("mapping: version 1 -> 2")
    with pytest.raises(UpgradeWaits):
        settled_plan(world(2), lambda lines: "stop")


def test_what_takes_less_than_a_minute_is_made_again_without_a_word(world, monkeypatch):
    monkeypatch.setattr(upgrading, "ASK_SECONDS", 60.0)
    settled = settled_plan(world(2))
    assert settled.lines
    assert made(settled)["mapping"] == 4


def test_a_remake_that_was_broken_off_goes_on_without_being_asked_again(world):
    first = settled_plan(world(2, names=("mapping",), on_upgrade="remake"))
    made(first)
    settled = settled_plan(world(2))
    assert settled.lines == ()


def test_a_stage_that_only_reads_what_a_release_changed_waits_too_and_keep_reads_it(world):
    reading = world(2, names=("training",))
    with pytest.raises(UpgradeWaits, match=r"read as it is with settings.on_upgrade=keep; `segue run mapping` makes"):
        settled_plan(reading)
    assert made(settled_plan(world(2, names=("training",), on_upgrade="keep"))) == {"training": 0}
