"""Jobs on clusters: what workers report and receive, which GPU each has, and the same tables as with threads."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.runs.clusters import (
    _Mailbox,
    _offers_gpus,
    connected_to_run,
    local_dask_cluster,
    placement,
    places,
    relaying_progress,
)
from schemas import Settings, Store
from schemas.queries.database import query
from schemas.tables import CHROMA
from stages.pipeline.contract import Progress, Stopped
from tests.worlds.kept_work import kept_keys
from tests.worlds.together import context_in

ROOT = Path(__file__).resolve().parents[3]


class InProcess:
    """A channel with both ends in one process: Ray's actor, called directly."""

    def __init__(self) -> None:
        self.box = _Mailbox()
        self.receive = self.box.receive

    def connect(self):
        return self.box.send


class Heard(Progress):
    """Records progress with the thread that reported it, by which the lines of jobs are told apart."""

    def __init__(self) -> None:
        self.lines: list[tuple] = []

    def start(self, what: str, total: int, unit: str) -> None:
        self.lines.append((threading.get_ident(), what, total, unit))

    def advance(self, count: int = 1, note: str = "") -> None:
        self.lines.append((threading.get_ident(), count, note))

    def end_job(self) -> None:
        self.lines.append((threading.get_ident(), "end"))


@pytest.fixture
def channel(monkeypatch) -> InProcess:
    opened = InProcess()
    monkeypatch.setattr("flows.runs.clusters._open_channel", lambda runner, settings: opened)
    monkeypatch.setattr("flows.runs.clusters.PULSE_SECONDS", 0.01)
    return opened


RAY = Settings(task_runner="ray")


def test_a_run_receives_the_progress_of_each_job_as_if_from_its_own_thread(tmp_path: Path, channel: InProcess) -> None:
    heard, context = Heard(), context_in(tmp_path)
    with (
        relaying_progress(None, RAY, heard, threading.Event()) as opened,
        connected_to_run(opened, "one", context) as one,
        connected_to_run(opened, "other", context) as other,
    ):
        one.progress.start("decode", 100, "tracks")
        for number in range(100):
            one.progress.advance(1, f"track {number}")
        other.progress.start("decode", 5, "tracks")
        while len({line[0] for line in heard.lines}) < 2:  # until both report
            time.sleep(0.01)
        one.progress.end_job()
    threads = {line[0] for line in heard.lines}
    assert len(threads) == 2
    (of_one,) = [
        [line[1:] for line in heard.lines if line[0] == each] for each in threads if (each, "end") in heard.lines
    ]
    assert of_one[0] == ("decode", 100, "tracks")
    assert sum(line[0] for line in of_one if len(line) == 2) == 100
    assert of_one[-2][1] == "track 99"
    assert of_one[-1] == ("end",)


def test_a_stop_reaches_running_and_later_jobs_and_waits_for_running_ones(tmp_path: Path, channel: InProcess) -> None:
    stop, ended, context = threading.Event(), [], context_in(tmp_path)

    def work() -> None:
        with connected_to_run(channel, "one", context) as job:
            while not job.stop.wait(0.01):
                pass
            time.sleep(0.2)  # the rest of its batch
        ended.append("one")

    with relaying_progress(None, RAY, Progress(), stop):
        worker = threading.Thread(target=work)
        worker.start()
        time.sleep(0.1)
        stop.set()
    worker.join()
    assert ended == ["one"]
    with pytest.raises(Stopped), connected_to_run(channel, "later", context) as job:
        job.check_stopped()


def test_workers_of_a_local_dask_cluster_share_out_the_gpus_of_the_run(monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    specified = {}
    monkeypatch.setattr("distributed.SpecCluster", lambda workers, **others: specified.update(workers))
    local_dask_cluster(Settings(task_runner="dask", concurrency=3))
    options = [specified[number]["options"] for number in range(3)]
    assert [each["env"]["CUDA_VISIBLE_DEVICES"] for each in options] == ["4", "6", "4"]
    assert [each["resources"] for each in options] == [{"GPU": 1}, {"GPU": 1}, {}]
    assert {each["host"] for each in options} == {"127.0.0.1"}
    local_dask_cluster(Settings(task_runner="dask", device="cpu"))
    assert "env" not in specified[0]["options"]


def test_only_jobs_that_want_a_gpu_reserve_one_on_a_cluster_with_gpus() -> None:
    from prefect_ray.context import RemoteOptionsContext

    elsewhere = Settings(task_runner="ray", ray_address="ray://head:10001")
    assert not _offers_gpus(elsewhere)
    cuda = elsewhere.model_copy(update={"device": "cuda"})
    with placement(cuda, wants_gpu=True):
        assert RemoteOptionsContext.get().current_remote_options == {"num_gpus": 1}
    with placement(cuda, wants_gpu=False):
        assert RemoteOptionsContext.get().current_remote_options == {}


def test_as_many_jobs_run_at_once_as_the_run_or_a_cluster_elsewhere_has_places(monkeypatch) -> None:
    from distributed import LocalCluster

    assert places(None, Settings(concurrency=3), wants_gpu=True) == 3
    assert places(None, Settings(task_runner="dask", concurrency=2), wants_gpu=False) == 2
    workers = {"processes": False, "dashboard_address": None, "resources": {"GPU": 1}}
    with LocalCluster(n_workers=2, threads_per_worker=3, **workers) as cluster, cluster.get_client() as client:
        runner, elsewhere = SimpleNamespace(client=client), Settings(task_runner="dask", dask_address="tcp://head:8786")
        assert places(runner, elsewhere, wants_gpu=True) == 6
        assert places(runner, elsewhere.model_copy(update={"device": "cuda"}), wants_gpu=True) == 2
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 16.0, "GPU": 4.0})
    of_ray = Settings(task_runner="ray", ray_address="auto", device="cuda")
    assert (places(None, of_ray, wants_gpu=True), places(None, of_ray, wants_gpu=False)) == (4, 16)


# -- on real clusters -----------------------------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path, source):
    return Settings(store=str(tmp_path / "store"), source=str(source))


def tiny(settings: Settings, store: str, runner: str) -> list[str]:
    others = json.dumps({"task_runner": runner, "concurrency": 2})
    return [sys.executable, "-m", "tests.worlds.tiny_flow", store, settings.source, others]


def rows(store: str) -> list[dict]:
    return query(Store(store), "SELECT * FROM chroma ORDER BY ALL").to_pylist()


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_a_cluster_makes_the_same_tables_as_threads_even_if_a_worker_is_killed(
    server, settings, write_words, runner
) -> None:
    write_words("1", "2", "kill", "4")
    done = server.command(*tiny(settings, settings.store, runner), timeout=600)
    assert done.returncode == 0, done.stderr
    assert (Path(settings.source) / "2.tries").read_text().count("try") >= 2
    on_threads = f"{settings.store}-threads"
    assert server.command(*tiny(settings, on_threads, "threads"), timeout=600).returncode == 0
    assert rows(settings.store) == rows(on_threads)


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_a_worker_loads_a_model_once_for_all_its_jobs(server, settings, write_words, runner) -> None:
    write_words(*map(str, range(16)))
    done = server.command(*tiny(settings, settings.store, runner), timeout=600)
    assert done.returncode == 0, done.stderr
    assert len(rows(settings.store)) == 16
    loads = (Path(settings.source) / "loads").read_text().split()
    # There are eight jobs, a shard of two files each, on two workers; Ray may start more processes than work at once.
    assert len(loads) == len(set(loads)) < 8, loads


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_a_stopped_run_stops_its_cluster_at_the_next_batch(server, settings, write_words, runner) -> None:
    write_words("1", "2", "wait")
    process = subprocess.Popen(tiny(settings, settings.store, runner), env=server.environment, cwd=ROOT)
    try:
        deadline = time.monotonic() + 400
        while not (Path(settings.source) / "2.tries").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(120) != 0
    finally:
        process.kill()
    assert kept_keys(Store(settings.store), CHROMA) == [("0.txt",), ("1.txt",)]
