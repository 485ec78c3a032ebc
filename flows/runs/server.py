"""Prefect's own server, for a run that is given none: `prefect server start`, which ends when the run does.

The server has a session of its own, so that signals to the run's whole process group (Ctrl-C, `timeout`) do not reach
it; otherwise Prefect would ask the dead server for minutes how the run is. Its standard input is a pipe from the run,
and it ends when that closes. Every system closes the files of a dead process, so a run killed with -9 leaves no server.
"""

import atexit
import os
import runpy
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

START_SECONDS = 300.0
"""Seconds that the server has to start. Prefect allows its own 20 seconds: too short for several first starts at once
on a small machine. A start beside much other work took more than two minutes."""


HEARTBEAT_SECONDS = "30"
"""Seconds between two heartbeats of a run; `prefect.yaml` has the same for deployments, and
`flows/service/automations.yaml` expects it."""


@dataclass(frozen=True)
class _OwnServer:
    port: int
    process: "subprocess.Popen[bytes]"


_own: list[_OwnServer] = []
"""The server of this run, if there is one."""


def start_server() -> None:
    """Make sure that Prefect has a server: the one that PREFECT_API_URL names, or one that ends with this run.

    The latter is only started, so that slow imports can run meanwhile; `wait_for_server` waits until it answers.

    Raises:
        ValueError: PREFECT_API_URL names a server that does not answer.
    """
    from prefect.context import refresh_global_settings_context
    from prefect.settings import PREFECT_API_URL

    if url := PREFECT_API_URL.value():
        # The server's automations take a run that is silent for longer for dead; Prefect's default is 180 seconds.
        os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", HEARTBEAT_SECONDS)
        refresh_global_settings_context()
        _check_answer(url)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "flows.runs.server",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--no-ui",
            "--no-services",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    _own.append(_OwnServer(port, process))
    atexit.register(end_server)
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    refresh_global_settings_context()


def wait_for_server() -> None:
    """Wait until the server of this run answers, if it has one.

    Raises:
        RuntimeError: the server ended.
        TimeoutError: it did not answer in five minutes.
    """
    deadline = time.monotonic() + START_SECONDS
    for server in _own:
        while not _answers(f"http://127.0.0.1:{server.port}/api/health"):
            cure = "start one with `prefect server start` and set PREFECT_API_URL"
            if server.process.poll() is not None:
                raise RuntimeError(
                    f"expected Prefect's server to start, got exit code {server.process.returncode}: {cure}"
                )
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"expected Prefect's server to start within {START_SECONDS:.0f} s, got no answer: run less else on "
                    f"this machine and give the same command again, or {cure}"
                )
            time.sleep(0.1)


def has_own_server() -> bool:
    """Return whether Prefect's server is this run's own, which only this machine can reach."""
    return bool(_own)


def end_server() -> None:
    """End the server of this run, if it has one."""
    while _own:
        server = _own.pop()
        server.process.kill()
        server.process.wait()


def _answers(url: str) -> bool:
    import urllib.error  # here, so that not every command imports it
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _check_answer(url: str) -> None:
    """Check that a server answers. Prefect itself would try for half a minute."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        problem = client.api_healthcheck()
    if problem is not None:
        raise ValueError(
            f"expected a Prefect server at {url}, as PREFECT_API_URL says, got {problem}: start it with "
            "`prefect server start`, or unset PREFECT_API_URL"
        )


def _end_with_standard_input() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":  # run in the server's process
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    sys.argv = ["prefect", "server", "start", *sys.argv[1:]]
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)
