"""How many threads compute, and how they wait: asleep beside other processes, spinning where the cores are free."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from schemas import Settings
from stages.pipeline import threads
from stages.pipeline.threads import NUMBER_VARIABLES, WAITING_VARIABLES, computing_threads, thread_count
from tests.worlds.waiting import SPINNING_SECONDS
from tests.worlds.world_of_sound import save_separator

ROOT = Path(__file__).resolve().parents[3]
LEAST_SHARE = 0.4
"""Least share of a lone run's speed that each of two runs has."""


def environment(**variables: str) -> dict[str, str]:
    """The environment of this process without variables about threads, like that of a user who set none."""
    unset = NUMBER_VARIABLES | WAITING_VARIABLES
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    return kept | {"PYTHONPATH": str(ROOT)} | variables


def start(program: str, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(**variables),
    )


def answer(process: "subprocess.Popen[str]", asked: str = "") -> object:
    out, _ = process.communicate(asked, timeout=600)
    assert process.returncode == 0
    return json.loads(out)


@pytest.mark.parametrize(
    ("cores", "torch_takes", "settings", "environment", "at_once", "count"),
    [
        (8, 8, {}, {}, 1, 8),
        (3, 8, {}, {}, 1, 3),  # the quota of a container
        (8, 4, {}, {}, 1, 4),  # two logical processors per core
        (8, 8, {}, {}, 3, 2),
        (2, 2, {}, {}, 3, 1),
        (2, 2, {"threads": 6}, {}, 1, 6),
        (2, 2, {"threads": 6}, {}, 2, 3),
        (8, 5, {}, {"OMP_NUM_THREADS": "5"}, 1, 5),
        (8, 5, {}, {"MKL_NUM_THREADS": "5"}, 2, 5),
        (8, 5, {"threads": 2}, {"OMP_NUM_THREADS": "5"}, 1, 2),
    ],
)
def test_threads_follow_the_settings_then_the_environment_then_the_cores(
    monkeypatch, cores, torch_takes, settings, environment, at_once, count
):
    monkeypatch.setattr(threads, "available_cores", lambda: cores)
    monkeypatch.setattr(threads, "_torch_threads", lambda: torch_takes)
    for name in NUMBER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert thread_count(Settings.model_validate(settings), at_once) == count


def test_a_job_computes_with_its_share_of_the_threads():
    before = torch.get_num_threads()
    try:
        with computing_threads(Settings(threads=6, concurrency=2), 2):
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="threads wait for one another from two cores on")
def test_threads_sleep_while_others_use_the_cores_and_spin_while_none_does():
    told = answer(start("tests.worlds.waiting"))
    assert told["threads"] == 2
    busy, free, busy_again = (told[name] for name in ("busy", "free", "busy again"))
    assert free > SPINNING_SECONDS
    assert max(busy, busy_again) < free / 4


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="threads wait for one another from two cores on")
def test_a_way_of_waiting_set_by_the_user_is_left_alone():
    told = answer(start("tests.worlds.waiting", GOMP_SPINCOUNT="300000"))
    assert told["busy"] > SPINNING_SECONDS


@pytest.mark.slow
def test_each_of_two_simultaneous_runs_has_its_share_of_a_lone_runs_speed(tmp_path):
    separator = str(save_separator(tmp_path / "separator"))
    runs = [start("tests.worlds.neighbours", str(tmp_path / name), separator) for name in ("first", "second")]

    def speeds(*asked: "subprocess.Popen[str]") -> list[float]:
        for run in asked:
            run.stdin.write("go\n")
            run.stdin.flush()
        return [float(run.stdout.readline()) for run in asked]

    try:
        speeds(*runs)  # the first tracks load the model
        turns = [(speeds(runs[0])[0], speeds(*runs), speeds(runs[1])[0]) for _ in range(3)]
    finally:
        for run in runs:
            run.kill()
    alone = [statistics.median(turn[side] for turn in turns) for side in (0, 2)]
    together = [statistics.median(turn[1][side] for turn in turns) for side in (0, 1)]
    shares = [one / lone for one, lone in zip(together, alone, strict=True)]
    print(f"tracks a second alone {alone}, together {together}: shares {shares}")
    assert min(shares) >= LEAST_SHARE
