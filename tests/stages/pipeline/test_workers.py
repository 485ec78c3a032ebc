"""Calls in other processes: errors there are raised here, and no process outlives its pool."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from stages.pipeline.workers import Call, WorkerDied, WorkerPool, WorkerTimeout
from tests.worlds.calls import breaks_elsewhere, large, own_process, raises, sleeps, vanishes
from tests.worlds.patience import PATIENCE_SECONDS

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def pool():
    pool = WorkerPool(["tests.worlds.calls"])
    yield pool
    pool.close()


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone_in_time(process: int) -> bool:
    end = time.monotonic() + PATIENCE_SECONDS
    while alive(process) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(process)


def test_calls_run_in_another_process_that_is_used_again(pool):
    first, second = (pool.run(Call(own_process, ()), 60) for _ in range(2))
    assert first == second != os.getpid()


def test_large_results_arrive_unchanged(pool):
    found = pool.run(Call(large, (3, 2_000_000)), 60)
    assert found.dtype == np.float32
    assert np.array_equal(found, large(3, 2_000_000))


def test_an_error_of_a_call_is_raised_in_the_caller_with_its_cause(pool):
    with pytest.raises(ConnectionError, match="reset by") as caught:
        pool.run(Call(raises, ()), 60)
    assert caught.value.__cause__ is not None
    assert pool.run(Call(own_process, ()), 60) != os.getpid()


def test_a_call_that_fails_only_in_a_worker_is_done_in_this_process(pool):
    assert pool.run(Call(breaks_elsewhere, (os.getpid(),)), 60) == "done here"


def test_a_call_that_ends_its_process_fails_and_the_next_gets_a_new_process(pool):
    before = pool.run(Call(own_process, ()), 60)
    with pytest.raises(WorkerDied, match="exit code 7"):
        pool.run(Call(vanishes, ()), 60)
    assert pool.run(Call(own_process, ()), 60) not in (before, os.getpid())


def test_a_call_that_takes_too_long_is_ended_with_its_process(pool):
    process = pool.run(Call(own_process, ()), 60)
    with pytest.raises(WorkerTimeout, match="1 s"):
        pool.run(Call(sleeps, ()), 1)
    assert gone_in_time(process)


def test_closing_ends_the_processes(pool):
    process = pool.run(Call(own_process, ()), 60)
    pool.close()
    assert gone_in_time(process)


def test_a_closed_pool_starts_no_process(pool):
    pool.close()
    with pytest.raises(WorkerDied, match="closed"):
        pool.run(Call(own_process, ()), 60)


def test_workers_end_when_the_program_that_started_them_is_killed():
    code = (
        "import time; from stages.pipeline.workers import Call, WorkerPool\n"
        "from tests.worlds.calls import own_process\n"
        "pool = WorkerPool(); print(pool.run(Call(own_process, ()), 60), flush=True); time.sleep(600)"
    )
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert program.stdout is not None
        worker = int(program.stdout.readline())
        assert alive(worker)
    finally:
        program.kill()
        program.wait()
    assert gone_in_time(worker)
