"""Stopping a run: by Ctrl-C, or by SIGTERM to it or to its whole process group, as service managers and `timeout` send.

A run that is asked to stop ends at its next batch, with one line and exit code 130. On a terminal, a line acknowledges
the request at once.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from flows.console import tell
from flows.runs.server import end_server

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""The signals that ask a run to stop."""

INTERRUPTED = 130
"""The exit code of a run that was asked to stop by either signal (128 + SIGINT)."""

STOPPED = "segue: stopped; what is done is kept, and the same command continues from there"

STOPPING = "segue: stopping after the current batch; Ctrl-C again stops at once"

GRACE_SECONDS = 15.0
"""Seconds that a run has to end in good order when asked to stop. After that it is ended at once, which the store
survives as it survives a kill."""

SAME_REQUEST_SECONDS = 1.0
"""Seconds within which further signals count as the same request: `timeout` signals the process and then its group."""


@contextmanager
def stoppable(stop: threading.Event) -> Iterator[None]:
    """Within this block, let the first signal set `stop` and raise KeyboardInterrupt. A later second signal ends the
    process at once, which the store survives as it survives a kill."""
    first: list[float] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if first:
            if time.monotonic() - first[0] > SAME_REQUEST_SECONDS:
                _end_at_once()
            return
        first.append(time.monotonic())
        stop.set()
        if sys.stderr.isatty():  # somebody is waiting
            os.write(sys.stderr.fileno(), f"\n{STOPPING}\n".encode())  # not `print`, which the signal may interrupt
        # Do not wait longer than this for work in progress, or for a server that is gone.
        late = threading.Timer(GRACE_SECONDS, _end_at_once)
        late.daemon = True
        late.start()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_at_once() -> None:
    end_server()
    tell(STOPPED)
    os._exit(INTERRUPTED)
