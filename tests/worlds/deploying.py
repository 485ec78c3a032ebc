"""`prefect.yaml` deployed on the tests' server, with a store and a source of a test, and a worker that runs it."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

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
