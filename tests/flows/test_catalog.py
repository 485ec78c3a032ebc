"""Shards as Prefect tasks: failures are collected and raised, transient ones are tried again, and only stale shards
run."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import cloudpickle
import pytest

from flows.catalog import Job
from schemas import Settings, Store
from schemas.queries.database import query
from schemas.tables import CHROMA
from stages.pipeline.contract import Context, Progress
from stages.pipeline.pipeline import Pipeline
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import StageFailed
from tests.worlds import tiny_flow, tiny_mapping
from tests.worlds.kept_work import kept_keys
from tests.worlds.patience import PATIENCE_SECONDS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def settings(tmp_path, source):
    return Settings(store=str(tmp_path / "store"), source=str(source))


def made(settings):
    return query(Store(settings.store), "SELECT track_id FROM chroma ORDER BY ALL").column("track_id").to_pylist()


def task_runs(flow_run_name):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName

    with get_client(sync_client=True) as client:
        wanted = FlowRunFilter(name=FlowRunFilterName(any_=[flow_run_name]))
        return client.read_flow_runs(flow_run_filter=wanted), client.read_task_runs(flow_run_filter=wanted)


def in_own_process(settings, **others):
    """The command that runs the tiny flow in its own process."""
    return [sys.executable, "-m", "tests.worlds.tiny_flow", settings.store, settings.source, json.dumps(others)]


def settings_file(settings, name):
    return Path(settings.source) / name


def test_a_failing_shard_fails_the_flow_with_its_reason_and_the_other_shards_are_kept(on_server, settings, write_words):
    write_words("1", "2", "fail", "4", "5")
    with pytest.raises(StageFailed, match=r"expected a number in 2\.txt, got 'fail'"):
        tiny_flow.tiny.with_options(flow_run_name="failing")(settings)
    assert made(settings) == []
    assert kept_keys(Store(settings.store), CHROMA) == [("0.txt",), ("1.txt",), ("4.txt",)]
    assert (settings_file(settings, "2.tries")).read_text().count("try") == 1
    (run,), _ = task_runs("failing")
    assert run.state.is_failed()
    assert "expected a number" in run.state.message


def test_a_lost_connection_is_tried_again_and_a_full_disk_is_not(on_server, settings, write_words):
    write_words("1", "2", "flaky", "4")
    tiny_flow.tiny(settings)
    assert made(settings) == ["0.txt", "1.txt", "2.txt", "3.txt"]
    write_words("1", "2", "flaky", "4", "full")
    with pytest.raises(StageFailed, match="No space left"):
        tiny_flow.tiny(settings)
    assert settings_file(settings, "4.tries").read_text().count("try") == 1


def test_a_run_with_nothing_stale_starts_no_task(on_server, settings, write_words):
    write_words("1", "2", "3")
    tiny_flow.tiny(settings)
    tiny_flow.tiny.with_options(flow_run_name="idle")(settings)
    (run,), tasks = task_runs("idle")
    assert run.state.is_completed()
    assert tasks == []


def test_sigterm_stops_running_shards_at_their_next_batch(server, settings, write_words):
    write_words("1", "2", "wait")
    process = subprocess.Popen(in_own_process(settings), env=server.environment, cwd=ROOT)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not settings_file(settings, "2.tries").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) != 0
    finally:
        process.kill()
    assert made(settings) == []
    assert kept_keys(Store(settings.store), CHROMA) == [("0.txt",), ("1.txt",)]


def test_a_job_is_pickled_without_the_progress_and_stop_of_this_process(settings, write_words):
    write_words("1")
    stage = ConfiguredStage("chroma", tiny_mapping, tiny_mapping.Config())
    context = Pipeline(tiny_flow.CONFIGURED, settings).context("chroma", "run")
    context.stop.set()
    job = pickle.loads(cloudpickle.dumps(Job(stage, context, ["0"])))
    assert isinstance(job.context, Context)
    assert type(job.context.progress) is Progress
    assert not job.context.stop.is_set()
    assert (job.context.fingerprint, job.names, job.stage.module) == (context.fingerprint, ["0"], tiny_mapping)


def test_dask_without_a_reachable_prefect_server_is_refused(settings):
    from flows.runs.clusters import task_runner

    with pytest.raises(ValueError, match="PREFECT_API_URL"):
        task_runner(settings.model_copy(update={"task_runner": "dask"}))


@pytest.mark.slow
def test_a_shard_whose_dask_worker_is_killed_is_done_by_another(server, settings, write_words):
    write_words("1", "2", "kill", "4")
    words = in_own_process(settings, task_runner="dask", concurrency=2)
    ended = server.command(*words, timeout=240)
    assert ended.returncode == 0, ended.stderr
    assert made(settings) == ["0.txt", "1.txt", "2.txt", "3.txt"]
    assert settings_file(settings, "2.tries").read_text().count("try") >= 2
