"""`prefect.yaml` deployed on the tests' server, with a store and a source of a test, and a worker that runs it."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State
from prefect.states import Scheduled

from tests.flows.conftest import Server

PROJECT = yaml.safe_load((Path(__file__).resolve().parents[2] / "prefect.yaml").read_text())
PREFECT = [sys.executable, "-m", "prefect"]


def deploy(server: Server, folder: Path, source: Path, deployments: Sequence[dict], recipe: dict | None = None) -> None:
    """Deploy from `folder`, without their schedules, onto the store `<folder>/store`.

    Args:
        recipe: what is made besides the preset's; a flow of the tests' own takes none.
    """
    settings = {"store": str(folder / "store"), "source": str(source), "workers": 1}
    chosen = {"preset": "miniature"} if recipe is None else recipe
    ours = {"parameters": {"settings": settings, **({"recipe": chosen} if chosen else {})}, "schedules": []}
    (folder / "prefect.yaml").write_text(yaml.safe_dump(PROJECT | {"deployments": [one | ours for one in deployments]}))
    for pool in ("cpu", "gpu"):
        made = server.command(*PREFECT, "work-pool", "create", pool, "--type", "process", "--overwrite")
        assert made.returncode == 0, made.stderr
    done = subprocess.run(
        [*PREFECT, "deploy", "--all"],
        env=server.environment | {"PWD": str(folder)},
        cwd=folder,
        stdin=subprocess.DEVNULL,  # where there is no terminal, nothing may be asked
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def worker(
    server: Server, folder: Path, pool: str = "cpu", limit: int | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker of a pool, of so many runs at once, which writes `<folder>/worker.log`."""
    limited = ["--limit", str(limit)] if limit else []
    with open(folder / "worker.log", "a") as log:
        process = subprocess.Popen(
            [*PREFECT, "worker", "start", "--pool", pool, *limited],
            env=server.environment | {"PWD": str(folder)},
            cwd=folder,
            stdout=log,
            stderr=log,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def waiting(name: str, pool: str, limit: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A deployment that works until it is told to stop."""
    limited = {"concurrency_limit": dict(limit)} if limit else {}
    return {
        "name": name,
        "entrypoint": "tests.worlds.tiny_flow.tiny",
        "work_pool": dict(PROJECT["definitions"]["pools"][pool]),
        **limited,
    }


def ask(client: SyncPrefectClient, name: str, hours: float = 0.0, parameters: dict[str, Any] | None = None) -> UUID:
    """Ask for a run of a deployment that was due so many hours ago, and return its id."""
    due = Scheduled(scheduled_time=datetime.now(UTC) - timedelta(hours=hours))
    deployment = client.read_deployment_by_name(f"tiny/{name}").id
    return client.create_flow_run_from_deployment(deployment, state=due, parameters=parameters).id


def state(client: SyncPrefectClient, run: UUID) -> State:
    found = client.read_flow_run(run).state
    assert found is not None
    return found


def wait_for(condition: Callable[[], object], seconds: float, every: float = 0.2) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"expected this within {seconds:.0f} s"
        time.sleep(every)
