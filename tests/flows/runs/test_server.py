"""Prefect's own server ends with the run that started it, in whatever way it ends; another server must answer."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.runs import server
from flows.runs.failures import is_fault
from tests.worlds.command_line import complaints, make_recordings, segue
from tests.worlds.patience import PATIENCE_SECONDS
from tests.worlds.prefect_home import make_home
from tests.worlds.processes import Process, processes, still_there

GONE_SECONDS = 60.0
"""Time within which nothing of a killed run may be left, on a busy machine, seconds."""


@pytest.mark.parametrize(
    "when", ["while its server starts", pytest.param("while it reads recordings", marks=pytest.mark.slow)]
)
def test_a_killed_run_leaves_no_server_behind(when, tmp_path: Path, common: Path):
    source = make_recordings(tmp_path / "many", 300, seconds=4.0)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    home = make_home(tmp_path / "prefect", common)
    environment |= {"PREFECT_HOME": str(home), "XDG_CACHE_HOME": str(tmp_path / "cache")}
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
    left: list[Process] = []
    try:
        left = [server_of(process)]
        if when == "while it reads recordings":
            assert any("reading recordings" in line for line in process.stderr)
        process.kill()
        process.communicate(timeout=GONE_SECONDS)  # nor does a reader of its output wait for ever
        deadline = time.monotonic() + GONE_SECONDS
        while still_there(left) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert still_there(left) == []
    finally:
        process.kill()
        for one in still_there(left):
            os.kill(one.pid, signal.SIGKILL)


def test_a_configured_server_that_does_not_answer_is_reported_in_one_line_before_any_work(tmp_path: Path):
    source = make_recordings(tmp_path / "few", 3)
    nowhere = os.environ | {"PREFECT_API_URL": "http://127.0.0.1:9/api", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    process = segue("run", "ingest", "--source", str(source), "--store", str(tmp_path / "store"), environment=nowhere)
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1
    assert len(complaints(errors)) == 1, errors
    assert "expected a Prefect server at http://127.0.0.1:9/api" in errors


def test_a_slow_start_of_a_server_is_not_a_fault_and_is_reported_with_a_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    monkeypatch.setattr(server, "_own", [server._OwnServer(9, process)])
    monkeypatch.setattr(server, "START_SECONDS", 0.0)
    try:
        with pytest.raises(TimeoutError, match="give the same command again, or start one with `prefect") as raised:
            server.wait_for_server()
        assert not is_fault(raised.value)
        process.kill()
        process.wait()
        with pytest.raises(RuntimeError, match="got exit code -9"):
            server.wait_for_server()
    finally:
        server.end_server()


def server_of(run: "subprocess.Popen[str]") -> Process:
    """A run's server, as soon as it exists."""
    deadline = time.monotonic() + 120
    while True:
        children = [one for one in processes() if one.parent == run.pid]
        servers = [one for one in children if "flows.runs.server" in one.words]
        if servers:
            return servers[0]
        assert run.poll() is None, run.stderr.read()
        assert time.monotonic() < deadline, f"expected a server within two minutes, got {children}"
        time.sleep(0.02)
