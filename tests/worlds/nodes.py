"""A small training under torchrun, with several processes or, standing in for two machines, several agents. Run as a
program, it is one process of the training."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from stages.pipeline.contract import Progress, Stopped
from stages.pipeline.runner import run_stage
from stages.train.following import world_of_torchrun
from tests.worlds.training_world import ROOT, make_context, recipe


class Told(Progress):
    """Records how many steps have been made, and slows steps down so that a test can interfere."""

    def __init__(self, file: Path) -> None:
        self.file, self.done = file, 0

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        self.file.write_text(str(self.done))
        time.sleep(0.05)


@dataclass
class Torchrun:
    """A training by torchrun: the number of agents, each standing for a machine, and of processes of each."""

    folder: Path
    changes: Mapping[str, object]
    port: int
    nodes: int
    processes: int = 1
    restarts: int = 0
    parallel: str = "data"
    agents: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    """The newest agent of each machine."""

    @property
    def exit_codes(self) -> list[int | None]:
        return [agent.poll() for agent in self.agents.values()]

    def start_agent(self, number: int) -> None:
        """Start the agent of a machine; the first machine is the rendezvous. The agent and its processes are a
        session."""
        words = [
            *("--nnodes", str(self.nodes), "--nproc-per-node", str(self.processes)),
            *("--max-restarts", str(self.restarts), "--rdzv-backend", "c10d", "--rdzv-id", self.folder.name),
            *("--rdzv-endpoint", f"127.0.0.1:{self.port}", "--rdzv-conf", f"is_host={int(number == 0)}"),
            *("-m", "tests.worlds.nodes", str(self.folder), json.dumps(self.changes), self.parallel),
        ]
        command = [sys.executable, "-m", "torch.distributed.run", *words]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        with open(self.folder / f"node-{number}.log", "a") as log:
            self.agents[number] = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def lose_machine(self, number: int) -> None:
        """Kill the agent of a machine and its processes at once, like a power cut."""
        group = os.getpgid(self.agents[number].pid)
        children = Path(f"/proc/{self.agents[number].pid}/task/{self.agents[number].pid}/children").read_text().split()
        os.killpg(group, signal.SIGKILL)
        for child in children:  # torch gives each a session of its own
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        self.agents[number].wait()


def workers(folder: Path) -> dict[int, int]:
    """The newest process of each rank."""
    return {int(file.stem): int(file.read_text()) for file in folder.glob("*.pid") if file.read_text()}


def logs(folder: Path) -> str:
    """The ends of the output of the agents and their processes."""
    return "\n".join(log.read_text()[-2000:] for log in folder.glob("node-*.log"))


def steps_made(folder: Path) -> int:
    """Number of steps that the run has reported, over all its starts."""
    file = folder / "steps"
    return int(file.read_text() or 0) if file.exists() else 0


def main() -> None:
    """Be one process of the training: the run, or one that follows it. A stopped run exits with 130."""
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

        thread = threading.Thread(target=work)  # as a task of a flow does
        thread.start()
        thread.join()
        if failures and isinstance(failures[0], Stopped):
            sys.exit(130)
        if failures:
            raise failures[0]


if __name__ == "__main__":
    main()
