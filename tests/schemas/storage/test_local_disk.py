"""Files that several processes create at the same moment, on disks with and without hard links."""

import errno
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from schemas.storage.local_disk import create_file
from tests.worlds.patience import PATIENCE_SECONDS

PROCESSES, FILES = 4, 25
SIZE = 100_000

Replacement = Callable[..., Any]


def _without_links(*_: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def _slow(rename: Replacement) -> Replacement:
    """Return a rename that takes as long as on a slow disk."""

    def rename_slowly(*paths: str) -> None:
        time.sleep(0.002)
        rename(*paths)

    return rename_slowly


def _killed(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _create_all(folder: Path, number: int, links: bool, barrier: Barrier) -> list[tuple[bool, bytes]]:
    """Create each file at the same moment as the other processes; return whether this process created it, and what is
    in it then. Nothing is checked here: the others would wait for a process that ended early."""
    if not links:
        patch = pytest.MonkeyPatch()  # for good: this process ends with the test
        patch.setattr(os, "link", _without_links)
        patch.setattr(os, "rename", _slow(os.rename))
    results = []
    for file in range(FILES):
        path = folder / str(file)
        barrier.wait(PATIENCE_SECONDS)
        created = create_file(str(path), bytes([number]) * SIZE)
        results.append((created, path.read_bytes()))
    return results


def _die_while_creating(path: str) -> None:
    patch = pytest.MonkeyPatch()
    patch.setattr(os, "link", _without_links)
    patch.setattr(os, "rename", _killed)
    create_file(path, b"of a process that is killed")


@pytest.mark.parametrize("links", [True, False], ids=["with hard links", "without hard links"])
def test_of_several_processes_one_creates_a_file_and_all_see_it_whole(tmp_path: Path, links: bool) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(PROCESSES) as pool:
        barrier: Any = manager.Barrier(PROCESSES)
        each = [(tmp_path, number, links, barrier) for number in range(PROCESSES)]
        results = pool.starmap_async(_create_all, each, chunksize=1).get(PATIENCE_SECONDS)
    for of_file in zip(*results, strict=True):
        (creator,) = [number for number, (created, _) in enumerate(of_file) if created]
        assert all(seen == bytes([creator]) * SIZE for _, seen in of_file)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(map(str, range(FILES)))


def test_a_process_that_is_killed_while_it_creates_a_file_does_not_hold_up_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lease"
    process = multiprocessing.get_context("spawn").Process(target=_die_while_creating, args=(str(path),))
    process.start()
    process.join(PATIENCE_SECONDS)
    assert process.exitcode == -signal.SIGKILL
    assert not path.exists()
    monkeypatch.setattr(os, "link", _without_links)
    assert create_file(str(path), b"of the next")
    assert not create_file(str(path), b"of a third")
    assert path.read_bytes() == b"of the next"
