"""Stopping a run: by Ctrl-C, or by SIGTERM to it or to its whole process group, as service managers and `timeout` send.

A run that is asked to stop ends at its next batch, with one line and exit code 130. Prefect's own server is a child of
the run and would be gone with the first of those signals; Prefect then asks it again for minutes. So the server is
started deaf to both, and the run ends it.
"""

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from subprocess import Popen

INTERRUPTED = 130
"""The exit code of a run that was asked to stop (128 + SIGINT), by whichever signal."""

STOPPED = "segue: stopped; what is done is kept, and the same command goes on from there"

GRACE_SECONDS = 15.0
"""What a run that was asked to stop has to end in good order; after that it ends at once, which the store survives as
it survives a kill."""

SAME_SECONDS = 1.0
"""Signals so close together are one wish: `timeout` signals the process, and then its group."""

ASKING = (signal.SIGINT, signal.SIGTERM)
"""The signals that ask a run to stop."""

_servers: "list[Popen[bytes]]" = []
"""Prefect's own server, while there is one."""


@contextmanager
def stoppable(stop: threading.Event) -> Iterator[None]:
    """The first signal sets `stop` and raises KeyboardInterrupt here; a second, later one ends the process at once,
    which the store survives as it survives a kill."""
    first: list[float] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if first:
            if time.monotonic() - first[0] > SAME_SECONDS:
                _end_at_once()
            return
        first.append(time.monotonic())
        stop.set()
        # Whatever still works then, or waits for a server that has gone, is not waited for any longer.
        late = threading.Timer(GRACE_SECONDS, _end_at_once)
        late.daemon = True
        late.start()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in ASKING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def start_server() -> None:
    """Start Prefect's own server, where no other is set, deaf to what asks the run to stop, and end it with the run."""
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value():
        return
    server = SubprocessASGIServer()
    signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)  # a child begins with the mask of its parent
    try:
        server.start()
    finally:
        if server.server_process is not None:
            _servers.append(server.server_process)
        # Before Prefect's own end of it, which begins with five seconds of the signal that it is deaf to.
        atexit.register(_end_server)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)


def _end_server() -> None:
    while _servers:
        server = _servers.pop()
        server.kill()
        server.wait()


def _end_at_once() -> None:
    _end_server()
    print(STOPPED, file=sys.stderr, flush=True)
    os._exit(INTERRUPTED)
