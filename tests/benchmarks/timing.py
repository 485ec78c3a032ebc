"""Clocks, and sides that take turns, so that what else the machine does falls on all of them."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

Clock = Callable[[], float]
"""Seconds since some moment."""


def wall_clock(device: str) -> Clock:
    """One that first waits until the device has done what it was given."""
    if torch.device(device).type != "cuda":
        return time.perf_counter

    def read() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return read


def clock_of(device: str, cpu_time: bool) -> Clock:
    """The processors' time where that is asked for, else the wall's.

    Raises:
        ValueError: processors' time is asked of another device.
    """
    if cpu_time and torch.device(device).type != "cpu":
        raise ValueError(f"expected --device cpu with --cpu-time, got {device}")
    return time.process_time if cpu_time else wall_clock(device)


def median_seconds(ways: Mapping[str, Callable[[], object]], repetitions: int, clock: Clock) -> dict[str, float]:
    """What each takes, all taking turns after one of each that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(repetitions + 1):
        for name, act in ways.items():
            begun = clock()
            act()
            if repetition:
                seconds[name].append(clock() - begun)
    return {name: statistics.median(values) for name, values in seconds.items()}
