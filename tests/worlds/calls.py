"""Functions that tests of workers run in other processes."""

import os
import time

import numpy as np


class Unsendable(Exception):
    """An exception with more arguments than its message, like those of some clients, so that it cannot be unpickled."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def own_process() -> int:
    return os.getpid()


def large(channels: int, samples: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((channels, samples), np.float32)


def raises() -> None:
    try:
        raise Unsendable("a", "b")
    except Unsendable as error:
        raise ConnectionError("reset by the peer") from error


def breaks_elsewhere(here: int) -> str:
    if os.getpid() != here:
        raise Unsendable("a", "b")
    return "done here"


def vanishes() -> None:
    os._exit(7)


def sleeps() -> None:
    time.sleep(600)
