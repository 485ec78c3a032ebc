"""Several processes of one training: how they communicate, how they fail, and that none outlives the run."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stages.pipeline.contract import Progress
from stages.train.distributed import Rank
from stages.train.following import ProcessDied, process_count, run_together
from tests.worlds.patience import PATIENCE_SECONDS
from tests.worlds.together import context_in, die, learn, object_to_it, tell_and_learn
from tests.worlds.training_world import ROOT

SECONDS = PATIENCE_SECONDS
"""How long a busy machine may take to start two processes."""


class Heard(Progress):
    def __init__(self) -> None:
        self.heard: list[tuple] = []

    def start(self, what: str, total: int, unit: str) -> None:
        self.heard.append((what, total, unit))

    def advance(self, count: int = 1, note: str = "") -> None:
        self.heard.append((count, note))


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], dict[str, bool | float], list[tuple]]:
    """The results of two processes that tell and learn, and the progress that they reported."""
    progress = Heard()
    context = replace(context_in(tmp_path_factory.mktemp("two")), progress=progress)
    return *run_together(tell_and_learn, context, 2), progress.heard


def test_processes_communicate_and_only_the_first_reports_progress(of_two: Any) -> None:
    (total, first, agreed, threads), _, heard = of_two
    assert (total, first, agreed) == (3.0, 10.0, True)
    assert threads == max(1, torch.get_num_threads() // 2)
    assert heard == [("telling", 3, "words"), (1, "one of 0"), (1, "two of 0"), (1, "three of 0")]


def test_processes_make_the_updates_of_one_and_skip_the_same_ones(of_two: Any, tmp_path: Path) -> None:
    together, alone = of_two[1], learn(context_in(tmp_path), Rank())
    assert [together[f"applied {step}"] for step in range(3)] == [True, False, True]
    assert [together[f"stayed {step}"] for step in range(3)] == [False, True, False]
    assert all(together[f"agree {step}"] for step in range(3))
    assert together.keys() == alone.keys()
    for name in ("norm 0", "norm 2", *(name for name in alone if name.startswith("weight"))):
        assert together[name] == pytest.approx(alone[name], rel=1e-4, abs=1e-6), name


def test_a_value_error_in_one_process_is_raised_unchanged(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^expected something else, got this$") as raised:
        run_together(object_to_it, context_in(tmp_path), 2)
    assert "in process 2 of 2" in str(raised.value.__cause__)
    assert "in object_to_it" in str(raised.value.__cause__)


def test_a_killed_process_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProcessDied, match="process 2 of 2 was ended by SIGKILL; the saved state is kept"):
        run_together(die, context_in(tmp_path), 2)


def _started(folder: Path) -> tuple[subprocess.Popen, list[int]]:
    """A running training of two processes in a process group of its own, and the ids of the two."""
    command = [sys.executable, "-m", "tests.worlds.together", str(folder)]
    run = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True)
    place = folder / "store" / "scratch" / "train-identity"
    files = [place / f"{number}.pid" for number in range(2)]
    until = time.monotonic() + SECONDS
    while not all(file.exists() and file.read_text() for file in files):
        assert run.poll() is None and time.monotonic() < until, run.stderr.read()  # noqa: PT018
        time.sleep(0.05)
    return run, [int(file.read_text()) for file in files]


def _gone(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"  # ended, but its exit code was not collected


@pytest.mark.slow
def test_ctrl_c_for_the_process_group_ends_every_process_in_order(tmp_path: Path) -> None:
    run, processes = _started(tmp_path)
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait(SECONDS) == 130, run.stderr.read()
    assert all(_gone(process) for process in processes)
    place = tmp_path / "store" / "scratch" / "train-identity"
    assert {file.name for file in place.glob("*.stopped")} == {"0.stopped", "1.stopped"}


def test_processes_end_with_a_killed_run(tmp_path: Path) -> None:
    run, processes = _started(tmp_path)
    os.kill(run.pid, signal.SIGKILL)
    assert run.wait(SECONDS) == -signal.SIGKILL
    until = time.monotonic() + SECONDS
    while not all(_gone(process) for process in processes):
        assert time.monotonic() < until, "a process outlived its run"
        time.sleep(0.05)


def test_the_number_of_processes_follows_the_settings_and_is_at_most_that_of_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = context_in(tmp_path)
    assert process_count(context, most=5) == 2
    assert process_count(context, most=1) == 1
    alone = replace(context, settings=context.settings.model_copy(update={"processes": None}))
    assert process_count(alone, most=5) == 1  # there is no GPU for each to have one
    monkeypatch.setattr(
        "stages.train.following.current_process", lambda: SimpleNamespace(daemon=True)
    )  # like a worker of Dask
    assert process_count(alone, most=5) == 1
    with pytest.raises(ValueError, match=r"expected settings\.processes = 1 for a run inside a worker .* got 2"):
        process_count(context, most=5)
