"""`prefect.yaml` deployed on the tests' server, with a store and a source of the test, and a worker that runs it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterExpectedStartTime
from prefect.client.schemas.objects import State
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Scheduled

from flows.commands.up import make_pools
from tests.flows.conftest import Server
from tests.worlds.patience import PATIENCE_SECONDS, wait_for
from tests.worlds.processes import family

PROJECT = yaml.safe_load((Path(__file__).resolve().parents[2] / "prefect.yaml").read_text())
PREFECT = [sys.executable, "-m", "prefect"]


def deploy(server: Server, folder: Path, source: Path, deployments: Sequence[dict], recipe: dict | None = None) -> None:
    """Deploy from `folder`, without their schedules, onto the store `<folder>/store`, and nothing else.

    What another test deployed on the same server is removed first.

    Args:
            recipe: additions to the preset's recipe; a flow of the tests takes none.
    """
    clear(server)
    with temporary_settings({PREFECT_API_URL: server.url}), get_client(sync_client=True) as client:
        list(make_pools(client))
    settings = {"store": str(folder / "store"), "source": str(source), "workers": 1}
    chosen = {"preset": "miniature"} if recipe is None else recipe
    ours = {"parameters": {"settings": settings, **({"recipe": chosen} if chosen else {})}, "schedules": []}
    (folder / "prefect.yaml").write_text(yaml.safe_dump(PROJECT | {"deployments": [one | ours for one in deployments]}))
    done = subprocess.run(
        [*PREFECT, "deploy", "--all"],
        env=server.environment | {"PWD": str(folder)},
        cwd=folder,
        stdin=subprocess.DEVNULL,  # without a terminal, nothing may be asked
        capture_output=True,
        text=True,
        timeout=600,  # on a busy machine
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def clear(server: Server) -> None:
    """Delete all deployments, with their schedules, their due runs and the slots that they hold.

    Otherwise a late run of one test's schedule would take the slot of a run that another test asks for under the same
    name, which would then be cancelled.
    """
    with temporary_settings({PREFECT_API_URL: server.url}), get_client(sync_client=True) as client:
        for deployment in client.read_deployments():
            client.delete_deployment(deployment.id)


@contextmanager
def worker(
    server: Server, folder: Path, pool: str = "cpu", limit: int | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a worker of a pool, for up to `limit` runs at once; it writes `<folder>/worker.log`, with the logs of its
    runs.

    It is killed at the end, with the runs that it still has: Prefect's worker takes half a minute and more to end when
    asked.
    """
    limited = ["--limit", str(limit)] if limit else []
    if not (folder / "server.log").exists():  # beside the worker's, so that a failed test shows both
        (folder / "server.log").symlink_to(server.log)
    with open(folder / "worker.log", "a") as log:
        process = subprocess.Popen(
            [*PREFECT, "worker", "start", "--pool", pool, *limited],
            env=server.environment | {"PWD": str(folder), "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO"},
            cwd=folder,
            stdout=log,
            stderr=log,
        )
        try:
            yield process
        finally:
            for one in family(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(one.pid, signal.SIGKILL)
            process.wait()


def waiting(name: str, pool: str, limit: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A deployment whose run works until it is told to stop."""
    limited = {"concurrency_limit": dict(limit)} if limit else {}
    return {
        "name": name,
        "entrypoint": "tests.worlds.tiny_flow.tiny",
        "work_pool": dict(PROJECT["definitions"]["pools"][pool]),
        **limited,
    }


def ask(client: SyncPrefectClient, name: str, hours: float = 0.0, parameters: dict[str, Any] | None = None) -> UUID:
    """Ask for a run of a deployment that was due `hours` ago, and return its id."""
    due = Scheduled(scheduled_time=datetime.now(UTC) - timedelta(hours=hours))
    deployment = client.read_deployment_by_name(f"tiny/{name}").id
    return client.create_flow_run_from_deployment(deployment, state=due, parameters=parameters).id


def state(client: SyncPrefectClient, run: UUID) -> State:
    found = client.read_flow_run(run).state
    assert found is not None
    return found


def wait_for_state(
    client: SyncPrefectClient, run: UUID, *names: str, seconds: float = PATIENCE_SECONDS, every: float = 0.1
) -> None:
    """Wait until a run is in a state of one of these names; raise if it ends in another one."""

    def is_there() -> bool:
        now = state(client, run)
        assert now.name in names or not now.is_final(), f"expected {names}; seen: {histories(client, run)}"
        return now.name in names

    wait_for(is_there, seconds, every, lambda: f"not {names}, but {histories(client, run)}")


def histories(client: SyncPrefectClient, run: UUID | None = None) -> str:
    """List the states of a run with their times, and the server's other runs, newest first."""
    lines = []
    due = FlowRunFilter(expected_start_time=FlowRunFilterExpectedStartTime(before_=datetime.now(UTC)))
    others = client.read_flow_runs(flow_run_filter=due, sort=FlowRunSort.START_TIME_DESC, limit=20)
    first = [client.read_flow_run(run)] if run else []
    for one in [*first, *(other for other in others if other.id != run)]:
        states = sorted(client.read_flow_run_states(one.id), key=lambda state: state.timestamp)
        steps = [f"{state.timestamp:%H:%M:%S} {state.name} {state.message or ''}".strip() for state in states]
        kind = "of its schedule" if one.auto_scheduled else "asked for"
        lines.append(f"{one.name}, {kind}, deployment {one.deployment_id}: {'; '.join(steps)}")
    return "\n".join(lines)
