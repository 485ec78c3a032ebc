"""A server that is away for a while: a cancel takes effect, a run that its worker left is taken up, one that lives goes
on and keeps its place, and of what came late one run is enough."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Scheduled

from flows.commands.up import make_pools
from tests.flows.conftest import ROOT, Server, ServerProcess
from tests.worlds.deploying import PREFECT, PROJECT, deploy, worker
from tests.worlds.processes import family

RIGHT_SECONDS = 120.0
"""By when all is as it should be, once the server has come back."""

STUCK_SECONDS = 15
"""What the short form lets pass instead of the minute and a half of `flows/service/automations.yaml`."""

AUTOMATIONS = yaml.safe_load((ROOT / "flows" / "service" / "automations.yaml").read_text())["automations"]
POOLS = PROJECT["definitions"]["pools"]
ENQUEUE, CANCEL_NEW = PROJECT["definitions"]["one_at_a_time"], PROJECT["definitions"]["the_first"]


def waiting(name: str, pool: str, limit: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A deployment that works until it is told to stop."""
    limited = {"concurrency_limit": dict(limit)} if limit else {}
    return {"name": name, "entrypoint": "tests.worlds.tiny_flow.tiny", "work_pool": dict(POOLS[pool]), **limited}


@pytest.fixture
def away(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server of the test's own, which can go away."""
    home = tmp_path / "prefect"
    home.mkdir()
    process = ServerProcess(home)
    process.start()
    try:
        with temporary_settings({PREFECT_API_URL: process.server.url}):
            yield process
    finally:
        process.end()


@pytest.mark.parametrize(
    ("seconds", "stuck"),
    [(5.0, STUCK_SECONDS), pytest.param(60.0, None, marks=pytest.mark.slow)],
    ids=["short", "real"],
)
def test_what_an_outage_met_is_as_it_should_be_two_minutes_after_it(
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
            wait_for(lambda run=run: state(client, run).is_running(), 120)
        follows, left = ask(client, "cancelled"), ask(client, "left")
        wait_for(lambda: state(client, follows).name == "AwaitingConcurrencySlot", 60)
        with worker(away.server, tmp_path, "gpu") as process:
            wait_for(lambda: state(client, left).is_pending(), 60, every=0.02)
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
            for run in (follows, left):  # for which a worker starts a process
                wait_for(lambda run=run: state(client, run).is_running(), RIGHT_SECONDS)
            if seconds >= 60:
                time.sleep(max(0.0, back + RIGHT_SECONDS - time.monotonic()))
            assert state(client, living).is_running()
            assert state(client, left).is_running()
            lease = state(client, living).state_details.deployment_concurrency_lease_id
            assert lease is not None
            client.renew_concurrency_lease(lease, 300)  # as the run itself does, and ends where that fails
            for run in (living, follows, left):
                client.set_flow_run_state(run, Cancelling())
            for run in (living, follows, left):
                wait_for(lambda run=run: state(client, run).is_cancelled(), RIGHT_SECONDS)
            wait_for(lambda: not any(slots(client).values()), 60)


def test_of_runs_that_came_late_one_is_done_and_the_next_one_has_nothing_to_do(
    away: ServerProcess, tmp_path: Path
) -> None:
    """As after an outage of six hours, while other runs start."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(4):
        (source / f"{number}.txt").write_text(str(number))
    hourly = waiting("hourly", "scheduled_cpu", CANCEL_NEW)
    deploy(away.server, tmp_path, source, [hourly, waiting("on demand", "cpu")], recipe={})
    with get_client(sync_client=True) as client:
        late = [ask(client, "hourly", hours=hours) for hours in range(6, 0, -1)]
        others = [ask(client, "on demand") for _ in range(3)]
        with worker(away.server, tmp_path):
            for run in (*late, *others):
                wait_for(lambda run=run: state(client, run).is_final(), 240)
            assert sorted(state(client, run).name for run in late) == ["Cancelled"] * 5 + ["Completed"]
            assert [state(client, run).name for run in others] == ["Completed"] * 3
            then = ask(client, "hourly")  # whose place nobody has kept
            wait_for(lambda: state(client, then).is_completed(), 120)


def test_runs_on_demand_that_wait_for_their_turn_do_not_hold_up_the_nightly_one(
    away: ServerProcess, tmp_path: Path
) -> None:
    """A worker of two places, one of them taken by a run for which nine more wait (prefect #19403)."""
    source, quick = tmp_path / "source", tmp_path / "quick"
    for folder, word in ((source, "wait"), (quick, "1")):
        folder.mkdir()
        (folder / "0.txt").write_text(word)
    nightly = waiting("nightly", "scheduled_gpu", CANCEL_NEW)
    deploy(away.server, tmp_path, source, [nightly, waiting("on demand", "gpu", ENQUEUE)], recipe={})
    with get_client(sync_client=True) as client:
        list(make_pools(client))  # as `segue up` does: the queues and their priorities
        waiters = [ask(client, "on demand") for _ in range(10)]
        with worker(away.server, tmp_path, "gpu", limit=2):
            wait_for(lambda: any(state(client, run).is_running() for run in waiters), 120)
            settings = {"store": str(tmp_path / "another"), "source": str(quick)}
            due = ask(client, "nightly", parameters={"settings": settings})
            wait_for(lambda: state(client, due).is_completed(), 120)
            assert sum(state(client, run).is_running() for run in waiters) == 1
            assert not any(state(client, run).is_completed() for run in waiters)
            for run in waiters:
                if not state(client, run).is_running():
                    client.delete_flow_run(run)
                else:
                    client.set_flow_run_state(run, Cancelling())
                    wait_for(lambda run=run: state(client, run).is_cancelled(), 60)


def register(server: Server, folder: Path, stuck: int | None) -> None:
    """Register the automations, the one for stuck runs with another time where one is given."""
    ours = [
        one | ({"trigger": one["trigger"] | {"within": stuck}} if stuck and "stuck" in one["name"] else {})
        for one in AUTOMATIONS
    ]
    file = folder / "automations.yaml"
    file.write_text(yaml.safe_dump({"automations": ours}))
    done = server.command(*PREFECT, "automation", "create", "--from-file", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


def ask(client: SyncPrefectClient, name: str, hours: float = 0.0, parameters: dict[str, Any] | None = None) -> UUID:
    """Ask for a run of a deployment that was due so many hours ago, and return its id."""
    due = Scheduled(scheduled_time=datetime.now(UTC) - timedelta(hours=hours))
    deployment = client.read_deployment_by_name(f"tiny/{name}").id
    return client.create_flow_run_from_deployment(deployment, state=due, parameters=parameters).id


def state(client: SyncPrefectClient, run: UUID) -> State:
    found = client.read_flow_run(run).state
    assert found is not None
    return found


def retaken(client: SyncPrefectClient, run: UUID) -> bool:
    """Whether a run was scheduled anew and a worker has it again."""
    states = sorted(client.read_flow_run_states(run), key=lambda one: one.timestamp)
    names = [one.name for one in states]
    return "AwaitingRetry" in names and names[-1] in ("Pending", "Submitting", "Running")


def slots(client: SyncPrefectClient) -> dict[str, int]:
    """How many places of each limit are taken."""
    limits = client.request("POST", "/v2/concurrency_limits/filter", json={}).json()
    return {limit["name"]: limit["active_slots"] for limit in limits}


def times_of(conditions: Mapping[str, Callable[[], object]], since: float) -> dict[str, float]:
    """Wait until each holds, and return after how many seconds it did."""
    took: dict[str, float] = {}
    while len(took) < len(conditions):
        took |= {what: time.monotonic() - since for what, holds in conditions.items() if what not in took and holds()}
        assert time.monotonic() < since + RIGHT_SECONDS, f"expected {list(conditions)}, got {took}"
        time.sleep(0.2)
    return took


def wait_for(condition: Callable[[], object], seconds: float, every: float = 0.2) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"expected this within {seconds:.0f} s"
        time.sleep(every)
