"""A run asks the server for its state, and ends if it was cancelled, even if no worker told it."""

import subprocess
import time

import pytest
from prefect.states import Cancelled, Cancelling

from tests.flows.test_catalog import ROOT, in_own_process, made, settings_file
from tests.worlds.kept_work import kept_keys


@pytest.fixture
def settings(tmp_path, source):
    from schemas import Settings

    return Settings(store=str(tmp_path / "store"), source=str(source))


@pytest.mark.parametrize(
    "written", [pytest.param(Cancelled(), marks=pytest.mark.slow), Cancelling()], ids=["cancelled", "cancelling"]
)
def test_a_run_that_is_cancelled_without_a_signal_ends_at_its_next_batch(written, on_server, settings, write_words):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType

    from schemas import Store
    from schemas.tables import CHROMA

    running = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=["RUNNING"])))
    with get_client(sync_client=True) as client:  # killed runs of other tests still count as running
        others = {run.id for run in client.read_flow_runs(flow_run_filter=running)}
    write_words("1", "2", "wait")
    process = subprocess.Popen(in_own_process(settings), env=on_server.environment, cwd=ROOT)
    try:
        deadline = time.monotonic() + 180
        while not settings_file(settings, "2.tries").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        with get_client(sync_client=True) as client:
            (run,) = (run for run in client.read_flow_runs(flow_run_filter=running) if run.id not in others)
            client.set_flow_run_state(run.id, written, force=True)  # and no signal is sent
            process.wait(120)
            state = client.read_flow_run(run.id).state
            assert state is not None
            assert state.is_cancelled()
    finally:
        process.kill()
    assert made(settings) == []
    assert kept_keys(Store(settings.store), CHROMA) == [("0.txt",), ("1.txt",)]
