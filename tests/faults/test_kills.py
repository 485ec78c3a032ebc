"""Processes killed by `kill -9` again and again, in every stage and at any moment, and then run to the end."""

import multiprocessing
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schemas import Settings, Store
from tests.faults.comparing import Seen, differences, seen
from tests.faults.forms import SEED, long_form
from tests.worlds.tiny_chain import INPUTS, run_chain, write_inputs

CALLS = ("open", "os.rename", "os.remove", "os.mkdir", "os.link", "os.scandir", "os.listdir")
"""Operations on the disk that are seen; a process is killed before the operation is done."""
ROUNDS = {"short": 1, "long": 40}
"""Number of stores whose run is killed, and killed again while it recovers, before a run goes to the end."""


def work(settings: Settings, kill_at: int | None, count: Path) -> None:
    """Run the chain as a process that is killed at the n-th operation on its store's disk."""
    asked = 0

    def listen(event: str, words: tuple[Any, ...]) -> None:
        nonlocal asked
        if event in CALLS and str(words[0]).startswith(settings.store):
            asked += 1
            if asked == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(listen)
    run_chain(settings)
    count.write_text(str(asked))


def run_in_child(settings: Settings, kill_at: int | None, folder: Path) -> int:
    """Return the exit code of a process: 0, or the negative number of the signal that killed it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.test_kills"])
    process = context.Process(target=work, args=(settings, kill_at, folder / "count"))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


Undisturbed = tuple[Path, dict[str, str], int, Seen]
"""The store before the run, the inputs of the run, the number of its operations on the disk, and what is seen after
it."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Undisturbed]:
    """Return the undisturbed run of a scenario, which is made on first use, after the scenarios before it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "before first").mkdir()
    runs: dict[str, Undisturbed] = {}
    waiting = iter(INPUTS.items())

    def run_of(wanted: str) -> Undisturbed:
        while wanted not in runs:
            before = folder / (list(runs) or ["before first"])[-1]
            name, (tracks, requests) = next(waiting)
            store = folder / name
            shutil.copytree(before, store)
            inputs = write_inputs(folder / f"{name} inputs", tracks, requests)
            assert run_in_child(Settings(store=str(store), **inputs), None, folder) == 0
            runs[name] = (before, inputs, int((folder / "count").read_text()), seen(Store(str(store))))
        return runs[wanted]

    return run_of


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("short", "first"),
        pytest.param("short", "night", marks=pytest.mark.slow),
        pytest.param("long", "first", marks=long_form),
        pytest.param("long", "night", marks=long_form),
    ],
)
def test_a_run_killed_again_and_again_ends_like_an_undisturbed_one(
    form: str,
    name: str,
    undisturbed: Callable[[str], Undisturbed],
    tmp_path: Path,
    record_property: Callable[[str, Any], None],
) -> None:
    before, inputs, asked, wanted = undisturbed(name)
    draw, killed = random.Random(f"{SEED} {name}"), 0
    for number in range(ROUNDS[form]):
        store = tmp_path / f"store {number}"
        shutil.copytree(before, store)
        settings = Settings(store=str(store), **inputs)
        instants = [draw.randint(1, asked), draw.randint(1, asked // 4)]
        ends = [run_in_child(settings, instant, tmp_path) for instant in instants]
        assert set(ends) <= {-signal.SIGKILL, 0}, instants
        killed += ends.count(-signal.SIGKILL)
        assert run_in_child(settings, None, tmp_path) == 0, instants
        assert differences(seen(Store(str(store))), wanted) == [], instants
    assert killed >= ROUNDS[form]
    record_property("faults survived", killed)
