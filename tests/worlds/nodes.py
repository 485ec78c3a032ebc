"""A small training under torchrun, of several processes or, on what two machines are made of on one, of several agents.
Run as a program, one process of it."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from stages.pipeline.contract import Progress, Stopped
from stages.pipeline.runner import run_stage
from stages.train.following import world_of_torchrun
from tests.worlds.training_world import ROOT, make_context, recipe

SECONDS = 240.0
"""How long a busy machine may take for what is waited for."""


class Told(Progress):
    """Writes down how many steps have been made, and makes none faster than somebody can interfere."""

    def __init__(self, file: Path) -> None:
        self.file, self.done = file, 0

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        self.file.write_text(str(self.done))
        time.sleep(0.05)


def agents(
    folder: Path,
    changes: Mapping[str, object],
    port: int,
    nodes: int,
    restarts: int = 0,
    processes: int = 1,
    parallel: str = "data",
) -> list[subprocess.Popen[bytes]]:
    """Start torchrun's agents of so many machines of so many processes each, which train in the folder."""
    words = [
        *("--nnodes", str(nodes), "--nproc-per-node", str(processes), "--max-restarts", str(restarts)),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", folder.name),
        *("-m", "tests.worlds.nodes", str(folder), json.dumps(changes), parallel),
    ]
    command = [sys.executable, "-m", "torch.distributed.run", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    started = []
    for number in range(nodes):
        log = open(folder / f"node-{number}.log", "w")  # noqa: SIM115
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log))
    return started


def workers(folder: Path) -> dict[int, int]:
    """The newest process of each rank."""
    return {int(file.stem): int(file.read_text()) for file in folder.glob("*.pid") if file.read_text()}


def wait_for(condition: Callable[[], object], folder: Path) -> None:
    until = time.monotonic() + SECONDS
    while not condition():
        logs = "\n".join(log.read_text()[-2000:] for log in folder.glob("node-*.log"))
        assert time.monotonic() < until, logs
        time.sleep(0.02)


def steps_made(folder: Path) -> int:
    """How many steps the run has told of, over all its starts."""
    file = folder / "steps"
    return int(file.read_text() or 0) if file.exists() else 0


def main() -> None:
    """Be one process of the training: the run, or one that follows it. A run that was stopped ends with 130."""
    folder, changes, parallel = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    (folder / f"{os.environ['RANK']}.pid").write_text(str(os.getpid()))
    with world_of_torchrun() as world:
        if not world.rank.is_main:
            sys.exit(world.follow())
        stage, context = make_context(folder, recipe(folder, **changes), Told(folder / "steps"), parallel=parallel)
        failures: list[BaseException] = []

        def work() -> None:
            try:
                run_stage(stage, context)
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=work)  # as a task of a flow does it
        thread.start()
        thread.join()
        if failures and isinstance(failures[0], Stopped):
            sys.exit(130)
        if failures:
            raise failures[0]


if __name__ == "__main__":
    main()
