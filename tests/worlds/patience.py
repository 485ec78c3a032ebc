"""Waiting for other processes, for as long as a busy machine may take; a failure says what was seen."""

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_SECONDS = 240.0
"""Longest time to wait on a busy machine, seconds."""

T = TypeVar("T")


def wait_for(
    condition: Callable[[], T],
    seconds: float = PATIENCE_SECONDS,
    every: float = 0.1,
    seen: Callable[[], object] = lambda: "nothing else is known",
) -> T:
    """Ask for a condition every `every` seconds until it holds, and return its value.

    Raises AssertionError, with the value of `seen`, if it does not hold in time.
    """
    deadline = time.monotonic() + seconds
    while not (given := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"expected this within {seconds:.0f} s; seen: {seen()}")
        time.sleep(every)
    return given
