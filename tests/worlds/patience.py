"""Waiting for what other processes do, for as long as a busy machine may take; a failure says what was seen."""

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_SECONDS = 240.0
"""How long a busy machine may take for what is waited for."""

T = TypeVar("T")


def wait_for(
    condition: Callable[[], T],
    seconds: float = PATIENCE_SECONDS,
    every: float = 0.1,
    seen: Callable[[], object] = lambda: "nothing else is known",
) -> T:
    """Ask for a condition every so many seconds until it holds, and return what it gave.

    Raises AssertionError, with what `seen` tells, where it does not hold in time.
    """
    deadline = time.monotonic() + seconds
    while not (given := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"expected this within {seconds:.0f} s; seen: {seen()}")
        time.sleep(every)
    return given
