"""Prefect's own server, for a run that is given none: `prefect server start`, which ends when the run does.

The server is in a session of its own, so that what asks the whole process group of the run to stop (Ctrl-C, `timeout`)
does not reach it: Prefect would then ask it for minutes how the run is. Its standard input is a pipe from the run, and
it ends with that: every system closes what the dead held open, so that a run that is killed with -9 leaves no server.
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
"""Several first starts at once on a small machine need longer than the 20 seconds that Prefect allows its own; one with
much other work took more than two minutes."""


HEARTBEAT_SECONDS = "30"
"""Between two heartbeats of a run, as `prefect.yaml` has it for deployments and `flows/service/automations.yaml`
expects it."""


@dataclass(frozen=True)
class _OwnServer:
    port: int
    process: "subprocess.Popen[bytes]"


_own: list[_OwnServer] = []
"""The server of this run, while there is one."""


def start_server() -> None:
    """See that Prefect has a server: the one that PREFECT_API_URL names, or one that ends with this run.

    The latter is only begun, so that what takes seconds to import can be imported meanwhile; see `wait_for_server`.

    Raises:
        ValueError: a server is named, and does not answer.
    """
    from prefect.context import refresh_global_settings_context
    from prefect.settings import PREFECT_API_URL

    if url := PREFECT_API_URL.value():
        # Its automations take a run that was silent for longer for a dead one; Prefect's own default is 180 seconds.
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
        RuntimeError: it ended.
        TimeoutError: it takes longer than five minutes.
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
                    f"expected Prefect's server to start within {START_SECONDS:.0f} s, got no answer: let this machine "
                    f"do less beside it and give the same command again, or {cure}"
                )
            time.sleep(0.1)


def has_own_server() -> bool:
    """Return whether Prefect's server is that of this run, which only this machine reaches."""
    return bool(_own)


def end_server() -> None:
    """End the server of this run, if it has one."""
    while _own:
        server = _own.pop()
        server.process.kill()
        server.process.wait()


def _answers(url: str) -> bool:
    import urllib.error  # which every command would else import
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _check_answer(url: str) -> None:
    """See that a server answers: Prefect itself would try for half a minute."""
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


if __name__ == "__main__":  # the server's process
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    sys.argv = ["prefect", "server", "start", *sys.argv[1:]]
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)
