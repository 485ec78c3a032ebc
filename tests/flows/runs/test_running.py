"""Stages in their order, without Prefect, with tiny stages that are real in all but size."""

import threading

import pytest

from flows.runs.running import Run, RunPlan, run_stages
from schemas import Settings, Store
from schemas.queries.database import query
from schemas.storage.leases import hold_lease
from schemas.tables import CHROMA
from stages.pipeline.contract import Progress, Stopped
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import StageFailed
from tests.worlds import tiny_mapping, tiny_source
from tests.worlds.kept_work import kept_keys

CONFIGURED = [
    ConfiguredStage("ingest", tiny_source, tiny_source.Config()),
    ConfiguredStage("chroma", tiny_mapping, tiny_mapping.Config()),
]


@pytest.fixture
def settings(tmp_path, source):
    return Settings(store=str(tmp_path / "store"), source=str(source))


@pytest.fixture
def plan(settings):
    return RunPlan(CONFIGURED, ["ingest", "chroma"], settings)


def rows(settings, sql):
    return query(Store(settings.store), sql).to_pylist()


def test_a_first_run_makes_everything_and_a_second_one_nothing(plan, settings, write_words):
    write_words("1", "2", "3")
    first, second = Run(plan), Run(plan)
    run_stages(first)
    run_stages(second)
    assert [(one.stage, one.counts.made, one.counts.reused) for one in first.results] == [
        ("ingest", 3, 0),
        ("chroma", 3, 0),
    ]
    assert [(one.stage, one.counts.made, one.counts.reused) for one in second.results] == [
        ("ingest", 0, 3),
        ("chroma", 0, 3),
    ]
    assert rows(settings, "SELECT count(*) AS n FROM runs") == [{"n": 4}]


def test_a_run_uses_the_plans_that_it_is_given_and_records_the_same_rows(plan, settings, write_words, monkeypatch):
    write_words("1", "2", "3")
    run_stages(Run(plan))
    planned = Run(plan, plan.stage_plans())
    monkeypatch.setattr("stages.pipeline.runner.plan_stage", lambda *_: pytest.fail("planned again"))
    run_stages(planned)
    assert [(one.stage, one.counts.made, one.counts.reused) for one in planned.results] == [
        ("ingest", 0, 3),
        ("chroma", 0, 3),
    ]
    assert rows(settings, "SELECT count(*) AS n FROM runs") == [{"n": 4}]


def test_a_failed_shard_fails_the_run_keeps_the_other_shards_and_stops_later_stages(plan, settings, write_words):
    write_words("1", "2", "fail", "4", "5", "6")
    following = ConfiguredStage("again", tiny_mapping, tiny_mapping.Config(scale=2.0))
    run = Run(RunPlan([*CONFIGURED, following], ["ingest", "chroma", "again"], settings))
    with pytest.raises(StageFailed, match=r"shard 1: expected a number in 2\.txt"):
        run_stages(run)
    assert [one.stage for one in run.results] == ["ingest", "chroma"]
    assert rows(settings, "FROM chroma") == []
    assert kept_keys(Store(settings.store), CHROMA) == [("0.txt",), ("1.txt",), ("4.txt",), ("5.txt",)]
    assert "expected a number" in rows(settings, "SELECT error FROM runs WHERE stage = 'chroma'")[0]["error"]


class Heard(Progress):
    def __init__(self):
        self.lines: list[str] = []

    def tell(self, lines):
        self.lines += lines


def test_of_two_runs_that_begin_at_once_the_one_that_is_later_at_work_tells_of_the_other_once(
    plan, settings, write_words
):
    write_words("1", "2")
    store, early, late = Store(settings.store), Run(plan, progress=Heard()), Run(plan, progress=Heard())
    assert (early.other_runs_lines(), late.other_runs_lines()) == ([], [])
    with hold_lease(store, "ingest-other", early.run_id, pytest.fail, lambda: None):
        run_stages(late)
        (line,) = late.progress.lines
        assert line.startswith(f"another run is at work on this store: run {early.run_id} ")
        again = Run(plan, progress=Heard())
        assert len(again.other_runs_lines()) == 1
        write_words("1", "2", "3")
        run_stages(again)
        assert again.results[0].counts.made == 1
        assert again.progress.lines == []


def test_a_run_that_is_asked_to_stop_ends_at_the_next_batch(plan, settings, write_words):
    write_words("1", "2", "wait")
    run = Run(plan)
    threading.Timer(0.5, run.stop.set).start()
    with pytest.raises(Stopped):
        run_stages(run)
    assert rows(settings, "SELECT count(*) AS n FROM tracks")[0]["n"] == 3
