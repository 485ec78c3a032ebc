"""Late runs and waiting runs: one of several late runs is enough, and the nightly run does not wait for others."""

from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.states import Cancelling

from tests.flows.conftest import ServerProcess
from tests.worlds.deploying import PROJECT, ask, deploy, state, wait_for_state, waiting, worker
from tests.worlds.patience import wait_for

ENQUEUE, CANCEL_NEW = PROJECT["definitions"]["one_at_a_time"], PROJECT["definitions"]["the_first"]


@pytest.mark.slow
def test_one_of_several_late_runs_is_done_and_the_next_run_starts(away: ServerProcess, tmp_path: Path) -> None:
    """As after an outage of three hours, while another run starts."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(4):
        (source / f"{number}.txt").write_text(str(number))
    hourly = waiting("hourly", "scheduled_cpu", CANCEL_NEW)
    deploy(away.server, tmp_path, source, [hourly, waiting("on demand", "cpu")], recipe={})
    with get_client(sync_client=True) as client:
        late = [ask(client, "hourly", hours=hours) for hours in range(3, 0, -1)]
        other = ask(client, "on demand")
        with worker(away.server, tmp_path):
            for run in (*late, other):
                wait_for_state(client, run, "Cancelled", "Completed")
            assert sorted(state(client, run).name for run in late) == ["Cancelled"] * 2 + ["Completed"]
            assert state(client, other).name == "Completed"
            then = ask(client, "hourly")  # its slot is free
            wait_for_state(client, then, "Completed")


@pytest.mark.slow
def test_waiting_runs_on_demand_do_not_hold_up_the_nightly_run(away: ServerProcess, tmp_path: Path) -> None:
    """A worker with two places, one of them taken by a run for which two more wait (prefect #19403)."""
    source, quick = tmp_path / "source", tmp_path / "quick"
    for folder, word in ((source, "wait"), (quick, "1")):
        folder.mkdir()
        (folder / "0.txt").write_text(word)
    nightly = waiting("nightly", "scheduled_gpu", CANCEL_NEW)
    deploy(away.server, tmp_path, source, [nightly, waiting("on demand", "gpu", ENQUEUE)], recipe={})
    with get_client(sync_client=True) as client:
        waiters = [ask(client, "on demand") for _ in range(3)]
        with worker(away.server, tmp_path, "gpu", limit=2):
            wait_for(lambda: any(state(client, run).is_running() for run in waiters))
            settings = {"store": str(tmp_path / "another"), "source": str(quick)}
            due = ask(client, "nightly", parameters={"settings": settings})
            wait_for_state(client, due, "Completed")
            assert sum(state(client, run).is_running() for run in waiters) == 1
            assert not any(state(client, run).is_completed() for run in waiters)
            for run in waiters:
                if not state(client, run).is_running():
                    client.delete_flow_run(run)
                else:
                    client.set_flow_run_state(run, Cancelling())
                    wait_for_state(client, run, "Cancelled")
