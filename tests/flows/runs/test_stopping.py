"""Runs that are asked to stop end in seconds, say so in one line, and leave nothing running."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.runs.stopping import GRACE_SECONDS, STOPPED, STOPPING
from tests.worlds.command_line import complaints, make_recordings, segue
from tests.worlds.patience import PATIENCE_SECONDS
from tests.worlds.prefect_home import make_home
from tests.worlds.processes import Process, family, still_there

ROOT = Path(__file__).parents[3]


def started(process: subprocess.Popen[str]) -> None:
    """Wait until recordings are read."""
    for line in process.stderr:
        if "reading recordings" in line:
            break
    time.sleep(0.3)


def told(errors: str) -> list[str]:
    return [line for line in complaints(errors) if line and "reading recordings" not in line]


def test_ctrl_c_ends_with_one_line_and_130_and_the_next_run_completes_the_store(server, tmp_path):
    source, store = make_recordings(tmp_path / "many", 300, seconds=4.0), tmp_path / "store"
    words = ["run", "ingest", "--source", str(source), "--store", str(store), "--set", "settings.workers=1"]
    process = segue(*words, environment=server.environment)
    try:
        started(process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert told(errors) == [STOPPED]
    again = segue(*words, environment=server.environment)
    out, errors = again.communicate(timeout=PATIENCE_SECONDS)
    assert again.returncode == 0, errors
    row = out.splitlines()[1].split()
    assert int(row[1]) + int(row[2]) == 300


@pytest.mark.slow
def test_sigterm_to_the_process_group_ends_the_run_and_its_server_with_one_line_and_130(tmp_path: Path, common: Path):
    source, store = make_recordings(tmp_path / "many", 300, seconds=4.0), tmp_path / "store"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    home = make_home(tmp_path / "prefect", common)
    environment |= {"PREFECT_HOME": str(home), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    words = ["run", "ingest", "--source", str(source), "--store", str(store), "--set", "settings.workers=1"]
    process = segue(*words, environment=environment, start_new_session=True)
    members: list[Process] = []
    try:
        started(process)
        members = family(process.pid)
        assert any("flows.runs.server" in member.words for member in members), f"expected a server, got {members}"
        asked = time.monotonic()
        process.terminate()  # as `timeout` does: the process, then its group
        os.killpg(process.pid, signal.SIGTERM)
        _, errors = process.communicate(timeout=GRACE_SECONDS + PATIENCE_SECONDS)
        assert time.monotonic() - asked < GRACE_SECONDS + 30
    finally:
        for member in still_there(members):
            os.kill(member.pid, signal.SIGKILL)
    assert process.returncode == 130, errors
    assert told(errors) == [STOPPED]
    assert still_there(members) == []


ASKED = """
import os, signal, threading
from flows.runs.stopping import stoppable
stop = threading.Event()
try:
    with stoppable(stop):
        os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    raise SystemExit(130 if stop.is_set() else 1)
"""
"""A program that is asked to stop in the middle of its work."""


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_stop_is_acknowledged_at_once_on_a_terminal_and_not_in_a_pipe(is_terminal: bool):
    reading, writing = pty.openpty() if is_terminal else os.pipe()
    try:
        ended = subprocess.run([sys.executable, "-c", ASKED], stderr=writing, cwd=ROOT, check=False)
        os.close(writing)
        words = b""
        while not words.endswith(b"\n"):
            try:
                part = os.read(reading, 4096)
            except OSError:  # a closed terminal with nothing more to read
                break
            if not part:
                break
            words += part
    finally:
        os.close(reading)
    assert ended.returncode == 130
    assert words.decode().split("\r\n") == (["", STOPPING, ""] if is_terminal else [""])
