"""Prefect's own server goes with the run that it came with, however that ends."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.flows.command_line import make_recordings, segue

GONE_SECONDS = 10.0
"""By when nothing of a killed run may be left, on a machine that has other work."""


@pytest.mark.parametrize("when", ["while its server starts", "while it reads recordings"])
def test_a_run_that_is_killed_leaves_neither_its_server_nor_what_watches_it_behind(when, tmp_path: Path):
    source = make_recordings(tmp_path / "many", 300, seconds=4.0)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(tmp_path / "prefect"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    words = [
        "run",
        "ingest",
        "--source",
        str(source),
        "--store",
        str(tmp_path / "store"),
        "--set",
        "settings.workers=1",
    ]
    process = segue(*words, environment=environment)
    left: dict[int, str] = {}
    try:
        left = server_and_watcher(process)
        if when == "while it reads recordings":
            assert any("reading recordings" in line for line in process.stderr)
        process.kill()
        process.communicate(timeout=GONE_SECONDS)  # whoever reads its output does not wait for ever, either
        deadline = time.monotonic() + GONE_SECONDS
        while still_there(left) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert still_there(left) == {}
    finally:
        process.kill()
        for pid in still_there(left):
            os.kill(pid, 9)


def server_and_watcher(run: "subprocess.Popen[str]") -> dict[int, str]:
    """The command lines of a run's server and of what watches it, as soon as both are there, by their numbers."""
    deadline = time.monotonic() + 120
    while True:
        children = {pid: words for pid, (above, words) in processes().items() if above == run.pid}
        both = {pid: words for pid, words in children.items() if "uvicorn" in words or words.startswith("/bin/sh")}
        if len(both) == 2:
            return both
        assert run.poll() is None, run.stderr.read()
        assert time.monotonic() < deadline, f"expected a server and its watcher within two minutes, got {children}"
        time.sleep(0.02)


def still_there(before: dict[int, str]) -> dict[int, str]:
    """Those of some processes that have not ended (another process may have got the number of one)."""
    return {pid: words for pid, (_, words) in processes().items() if before.get(pid) == words}


def processes() -> dict[int, tuple[int, str]]:
    """The parent and the command line of every process that has not ended."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=3) for line in listed.splitlines()]
    return {int(row[0]): (int(row[1]), row[3]) for row in rows if len(row) == 4 and not row[2].startswith("Z")}
