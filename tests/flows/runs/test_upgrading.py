"""A release that changed a stage: the rows to be made again are reported, and wait for a decision, are made, or are
kept."""

import pytest

from flows.runs import upgrading
from flows.runs.running import Run, RunPlan, run_stages
from flows.runs.upgrading import UpgradeWaits, settle, settled_plan
from schemas import Config, Settings, Store
from schemas.queries.database import query
from stages.pipeline.plans import ConfiguredStage
from tests.worlds.tiny_stages import Knobs, Training, make_mapping, make_source, make_training


class NewKnobs(Knobs):
    """The knobs of a release that added one to the stage."""

    width: int = 3


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A store filled by three stages, and a function that plans a run with code of other versions."""
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


def test_a_raised_version_is_reported_with_rows_later_stages_and_time_and_waits_before_any_work(world):
    settled = settle(world(2))
    assert settled.waits
    assert settled.lines[0] == "mapping: version 1 -> 2, 4 rows again"
    assert settled.lines[1] == "then also training"
    assert settled.lines[2].startswith("that takes about ")
    assert why(settled)["mapping"] == "version 1 -> 2"
    with pytest.raises(UpgradeWaits, match=r"mapping: version 1 -> 2.*on_upgrade=remake.*on_upgrade=keep.*nothing was"):
        settled_plan(world(2))
    assert world.calls == []


def test_remake_makes_the_rows_again(world):
    settled = settled_plan(world(2, on_upgrade="remake"))
    assert made(settled) == {"source": 0, "mapping": 4, "training": 1}


def test_keep_reuses_the_rows_and_new_rows_join_them_recorded_with_the_new_version(world):
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


def test_a_knob_added_by_a_release_is_an_upgrade_and_a_knob_changed_by_a_user_is_not(world):
    assert settle(world(knobs=NewKnobs())).lines[0] == "mapping: new knobs width, 4 rows again"
    turned = settle(world(knobs=Knobs(level=2.0)))
    assert (turned.lines, turned.waits) == ((), False)
    assert settle(world(2, knobs=Knobs(level=2.0))).lines == ()


def test_a_group_of_knobs_turned_on_or_off_by_a_user_is_not_an_upgrade(world):
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


def test_only_existing_rows_count_as_made_again_and_new_inputs_do_not_wait(world):
    assert settle(world(2, tracks="abcdefg")).lines[0] == "mapping: version 1 -> 2, 4 rows again"
    anew = settle(world(2, tracks="wxyz"))
    assert (list(anew.lines), anew.waits) == ([], False)
    assert made(anew)["mapping"] == 4


def test_outdated_rows_are_never_kept_and_the_reason_is_given(world):
    outdated = {1: "its keys meant something else"}
    for policy in ("ask", "keep"):
        with pytest.raises(UpgradeWaits) as waiting:
            settled_plan(world(2, outdated=outdated, on_upgrade=policy))
        text = str(waiting.value)
        assert "mapping: version 1 -> 2 (its keys meant something else, so it cannot be kept), 4 rows again" in text
        assert "on_upgrade=remake to make it again; it cannot be kept" in text
    with pytest.raises(UpgradeWaits):
        settled_plan(world(2, outdated=outdated), lambda lines: "keep")
    with pytest.raises(UpgradeWaits, match=r"can no longer be read \(its keys.*segue run mapping"):
        settled_plan(world(2, names=("training",), outdated=outdated, on_upgrade="keep"))
    assert world.calls == []
    assert made(settled_plan(world(2, outdated=outdated, on_upgrade="remake")))["mapping"] == 4


def test_rows_are_kept_if_only_older_versions_are_outdated(world):
    settled = settled_plan(world(2, outdated={0: "its keys meant something else"}, on_upgrade="keep"))
    assert made(settled)["mapping"] == 0


def test_a_person_is_asked_once_and_the_answer_is_used(world):
    shown: list[str] = []

    def ask(lines):
        shown.extend(lines)
        return "keep"

    assert made(settled_plan(world(2), ask))["mapping"] == 0
    assert shown[0].startswith("mapping: version 1 -> 2")
    with pytest.raises(UpgradeWaits):
        settled_plan(world(2), lambda lines: "stop")


def test_an_upgrade_that_takes_less_than_a_minute_does_not_wait(world, monkeypatch):
    monkeypatch.setattr(upgrading, "ASK_SECONDS", 60.0)
    settled = settled_plan(world(2))
    assert settled.lines
    assert made(settled)["mapping"] == 4


def test_an_interrupted_remake_continues_without_another_question(world):
    first = settled_plan(world(2, names=("mapping",), on_upgrade="remake"))
    made(first)
    settled = settled_plan(world(2))
    assert settled.lines == ()


def test_a_stage_that_only_reads_a_changed_table_waits_too_and_keep_reads_it(world):
    reading = world(2, names=("training",))
    with pytest.raises(
        UpgradeWaits, match=r"settings.on_upgrade=keep reads what it made as it is; `segue run mapping` makes"
    ):
        settled_plan(reading)
    assert made(settled_plan(world(2, names=("training",), on_upgrade="keep"))) == {"training": 0}
