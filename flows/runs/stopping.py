"""Stopping a run: by Ctrl-C, or by SIGTERM to it or to its whole process group, as service managers and `timeout` send.

A run that is asked to stop ends at its next batch, with one line and exit code 130; on a terminal a line says at once
that it was heard.
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
"""The exit code of a run that was asked to stop (128 + SIGINT), by whichever signal."""

STOPPED = "segue: stopped; what is done is kept, and the same command goes on from there"

STOPPING = "segue: stopping after the batch in work; Ctrl-C once more ends it at once"

GRACE_SECONDS = 15.0
"""What a run that was asked to stop has to end in good order; after that it ends at once, which the store survives as
it survives a kill."""

SAME_SECONDS = 1.0
"""Signals so close together are one wish: `timeout` signals the process, and then its group."""


@contextmanager
def stoppable(stop: threading.Event) -> Iterator[None]:
    """Have the first signal set `stop` and raise KeyboardInterrupt within this block, and a second, later one end the
    process at once, which the store survives as it survives a kill."""
    first: list[float] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if first:
            if time.monotonic() - first[0] > SAME_SECONDS:
                _end_at_once()
            return
        first.append(time.monotonic())
        stop.set()
        if sys.stderr.isatty():  # somebody waits
            os.write(sys.stderr.fileno(), f"\n{STOPPING}\n".encode())  # a print may be what the signal came into
        # Whatever still works then, or waits for a server that has gone, is not waited for any longer.
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
