"""The gate killed by `kill -9` in the middle of its takes: the next run ends with the verdicts of an undisturbed
one."""

import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from schemas.tables import VERDICTS
from stages import gate
from stages.pipeline import jobs
from stages.pipeline.contract import Context, Progress
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import run_stage
from tests.stages.gate.test_gate import ASKED, half_fail
from tests.worlds.gate_world import GateWorld


class Deadly(Progress):
    """Kills the process after so many takes are judged."""

    def __init__(self, takes: int) -> None:
        self._left = takes

    def advance(self, count: int = 1, note: str = "") -> None:
        self._left -= count
        if self._left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


def judge(config: gate.Config, context: Context, kill_after: int) -> None:
    """Run the gate as a process that saves each verdict at once, and is killed in the middle of its work."""
    jobs.SAVE_SECONDS = jobs.SAVE_SHARE = 0
    run_stage(ConfiguredStage("gate", gate, config), replace(context, progress=Deadly(kill_after)))


def killed(config: gate.Config, context: Context, kill_after: int) -> int | None:
    """Return how the process ended: the negative number of the signal."""
    process = multiprocessing.get_context("spawn").Process(target=judge, args=(config, context, kill_after))
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.slow
def test_a_gate_killed_twice_during_retakes_ends_with_the_verdicts_of_an_undisturbed_one(
    tmp_path: Path,
) -> None:
    world = GateWorld(tmp_path, ASKED)
    config = half_fail(world)
    whole = world.verdicts(config, "whole")
    assert sum(len(row["tries"]) > 1 for row in whole.values()) >= 2  # some are made again
    context = world.context("killed")
    assert killed(config, context, 3) == -signal.SIGKILL
    assert killed(config, context, 2) == -signal.SIGKILL
    made = run_stage(ConfiguredStage("gate", gate, config), world.context("killed"))
    assert 0 < made.counts.made < len(whole)
    assert made.counts.made + made.counts.reused == len(whole)
    assert world.store.read(VERDICTS, "killed").to_pylist() == list(whole.values())
