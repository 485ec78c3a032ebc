"""Clocks, and sides that take turns, so that other load on the machine affects all of them."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

Clock = Callable[[], float]
"""Returns seconds since some moment."""


def wall_clock(device: str) -> Clock:
    """A clock that first waits until the device has done what it was given."""
    if torch.device(device).type != "cuda":
        return time.perf_counter

    def read() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return read


def clock_of(device: str, cpu_time: bool) -> Clock:
    """Return the processors' time if it is asked for, otherwise the wall clock.

    Raises:
            ValueError: processor time is asked for on another device than the CPU.
    """
    if cpu_time and torch.device(device).type != "cpu":
        raise ValueError(f"expected --device cpu with --cpu-time, got {device}")
    return time.process_time if cpu_time else wall_clock(device)


def median_seconds(ways: Mapping[str, Callable[[], object]], repetitions: int, clock: Clock) -> dict[str, float]:
    """The median time of each side; all take turns, and the first turn of each is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(repetitions + 1):
        for name, act in ways.items():
            begun = clock()
            act()
            if repetition:
                seconds[name].append(clock() - begun)
    return {name: statistics.median(values) for name, values in seconds.items()}
