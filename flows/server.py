"""Prefect's own server, for a run that is given none: it comes with the run, and goes with it however the run ends.

Prefect starts it as a child of the run. It would be gone with the first signal that asks the whole process group to
stop, and Prefect then asks it for minutes how the run is; so it is started deaf to those signals, and the run ends it.
A run that is killed with -9 ends nothing: then a watcher does, a shell that waits for the other end of a pipe to close,
as every system closes what the dead held open.
"""

import atexit
import signal
import subprocess
from dataclasses import dataclass

ASKING = (signal.SIGINT, signal.SIGTERM)
"""The signals that ask a run to stop."""

WATCHING = 'read -r server && { read -r _; kill -9 "$server"; }'
"""What the watcher runs: it is told the server's number, and its input then ends when the run is no more."""


@dataclass(frozen=True)
class _Watched:
    """A server and what watches over its end."""

    server: "subprocess.Popen[bytes]"
    watcher: "subprocess.Popen[bytes]"


_running: list[_Watched] = []
"""The server of this run, while there is one."""


def start_server() -> None:
    """Start Prefect's own server, where no other is set, deaf to what asks the run to stop, and end it with the run.

    Raises:
        ValueError: another is set, and does not answer.
    """
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value():
        _ask_server(PREFECT_API_URL.value())
        return

    class WatchedServer(SubprocessASGIServer):
        """Watched from its first moment: it takes seconds to start, and a run may be killed in them."""

        def _run_uvicorn_command(self) -> "subprocess.Popen[bytes]":
            end_server()  # Prefect tries again where another program took the port in the meantime
            watcher = _start_watcher()
            server = super()._run_uvicorn_command()
            _running.append(_Watched(server, watcher))
            assert watcher.stdin is not None
            watcher.stdin.write(b"%d\n" % server.pid)
            watcher.stdin.flush()
            return server

    signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)  # a child begins with the mask of its parent
    try:
        WatchedServer().start()
    finally:
        # Before Prefect's own end of it, which begins with five seconds of the signal that it is deaf to.
        atexit.register(end_server)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)


def end_server() -> None:
    """End the server of this run, if there is one. Another process can have its number only once it was waited for, and
    by then nothing watches that number any more."""
    while _running:
        watched = _running.pop()
        watched.server.kill()
        watched.watcher.kill()
        watched.watcher.wait()
        watched.server.wait()


def _ask_server(url: str) -> None:
    """See that a server answers: Prefect itself would try for half a minute."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        problem = client.api_healthcheck()
    if problem is not None:
        raise ValueError(
            f"expected a Prefect server at {url}, as PREFECT_API_URL says, got {problem}: start it with "
            "`prefect server start`, or unset PREFECT_API_URL"
        )


def _start_watcher() -> "subprocess.Popen[bytes]":
    """The watcher, in a session of its own, so that whoever kills the whole group of the run leaves it."""
    return subprocess.Popen(
        ["/bin/sh", "-c", WATCHING],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
