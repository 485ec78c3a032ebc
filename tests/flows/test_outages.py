"""A server that is away for a while: a cancel takes effect, a run that its worker left is rescheduled, and a live run
continues and keeps its slot."""

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from uuid import UUID

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.states import Cancelling

from tests.flows.conftest import POSTGRESQL, ROOT, SQLITE, Server, ServerProcess
from tests.worlds.deploying import PREFECT, PROJECT, ask, deploy, histories, state, wait_for_state, waiting, worker
from tests.worlds.patience import wait_for
from tests.worlds.processes import family

RIGHT_SECONDS = 120.0
"""Time in which everything must be right after the server comes back, seconds."""

STUCK_SECONDS = 15
"""Used in the short form instead of the minute and a half of `flows/service/automations.yaml`."""

AUTOMATIONS = yaml.safe_load((ROOT / "flows" / "service" / "automations.yaml").read_text())["automations"]
ENQUEUE, CANCEL_NEW = PROJECT["definitions"]["one_at_a_time"], PROJECT["definitions"]["the_first"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seconds", "stuck", "away"),
    [
        (5.0, STUCK_SECONDS, SQLITE),
        (60.0, None, SQLITE),
        (60.0, None, POSTGRESQL),
    ],
    ids=["short", "real", "real, PostgreSQL"],
    indirect=["away"],
)
def test_all_runs_are_in_the_right_state_two_minutes_after_an_outage(
    seconds: float, stuck: int | None, away: ServerProcess, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "0.txt").write_text("wait")
    register(away.server, tmp_path, stuck)
    deployments = [
        waiting("cancelled", "cpu", ENQUEUE), waiting("living", "cpu", CANCEL_NEW), waiting("left", "gpu", CANCEL_NEW)
    ]  # fmt: skip
    deploy(away.server, tmp_path, source, deployments, recipe={})
    with worker(away.server, tmp_path), get_client(sync_client=True) as client:
        cancelled, living = ask(client, "cancelled"), ask(client, "living")
        for run in (cancelled, living):
            wait_for_state(client, run, "Running")
        follows, left = ask(client, "cancelled"), ask(client, "left")
        wait_for_state(client, follows, "AwaitingConcurrencySlot")
        with worker(away.server, tmp_path, "gpu") as process:
            wait_for(lambda: state(client, left).is_pending(), every=0.02, seen=lambda: histories(client, left))
            for one in family(process.pid):
                os.kill(one.pid, signal.SIGKILL)
        assert state(client, left).is_pending()
        client.set_flow_run_state(cancelled, Cancelling())
        away.kill()
        time.sleep(seconds)
        away.start()
        back = time.monotonic()
        with worker(away.server, tmp_path, "gpu"):
            seen = {
                "the cancel took effect": lambda: state(client, cancelled).is_cancelled(),
                "the run that its worker left was taken up": lambda: retaken(client, left),
            }
            took = times_of(seen, back)
            print({what: round(when, 1) for what, when in took.items()})
            for run in (follows, left):  # a worker starts a process for them
                wait_for_state(client, run, "Running", seconds=RIGHT_SECONDS)
            if seconds >= 60:
                time.sleep(max(0.0, back + RIGHT_SECONDS - time.monotonic()))
            assert state(client, living).is_running()
            assert state(client, left).is_running()
            lease = state(client, living).state_details.deployment_concurrency_lease_id
            assert lease is not None
            client.renew_concurrency_lease(lease, 300)  # as the run itself does; if that fails, it ends
            for run in (living, follows, left):
                client.set_flow_run_state(run, Cancelling())
            for run in (living, follows, left):
                wait_for_state(client, run, "Cancelled", seconds=RIGHT_SECONDS)
            wait_for(lambda: not any(slots(client).values()), seen=lambda: slots(client))


def register(server: Server, folder: Path, stuck: int | None) -> None:
    """Register the automations, the one for stuck runs with the time `stuck` if it is given."""
    ours = [
        one | ({"trigger": one["trigger"] | {"within": stuck}} if stuck and "stuck" in one["name"] else {})
        for one in AUTOMATIONS
    ]
    file = folder / "automations.yaml"
    file.write_text(yaml.safe_dump({"automations": ours}))
    done = server.command(*PREFECT, "automation", "create", "--from-file", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


def retaken(client: SyncPrefectClient, run: UUID) -> bool:
    """Whether a run was rescheduled and taken by a worker again."""
    states = sorted(client.read_flow_run_states(run), key=lambda one: one.timestamp)
    names = [one.name for one in states]
    return "AwaitingRetry" in names and names[-1] in ("Pending", "Submitting", "Running")


def slots(client: SyncPrefectClient) -> dict[str, int]:
    """Number of slots taken of each limit."""
    limits = client.request("POST", "/v2/concurrency_limits/filter", json={}).json()
    return {limit["name"]: limit["active_slots"] for limit in limits}


def times_of(conditions: Mapping[str, Callable[[], object]], since: float) -> dict[str, float]:
    """Wait until each condition holds, and return after how many seconds it did."""
    took: dict[str, float] = {}
    while len(took) < len(conditions):
        took |= {what: time.monotonic() - since for what, holds in conditions.items() if what not in took and holds()}
        assert time.monotonic() < since + RIGHT_SECONDS, f"expected {list(conditions)}, got {took}"
        time.sleep(0.2)
    return took
