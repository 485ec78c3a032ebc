"""Freed memory: kept for the next tensors while jobs compute, and given back to the system now and then.

glibc's malloc gives each freed block of more than 32 MB back to the system, and asks for it again for the next.
Networks for sound have such tensors in every layer, and the system fills each new page with zeros first: a segment of
HTDemucs took a million page faults, which was 28 % of its processor time.
"""

import ctypes
import os
import time
from collections.abc import Callable
from functools import cache

LARGEST = 2**30
"""Bytes: malloc keeps freed blocks up to this size, and as much free memory at the end of its heap."""

PARAMETERS = {
    "MALLOC_MMAP_THRESHOLD_": (-3, LARGEST),
    "MALLOC_TRIM_THRESHOLD_": (-1, LARGEST),
    "MALLOC_ARENA_MAX": (-8, 1),
}
"""What is set: the numbers of parameters of glibc's `mallopt` (malloc.h) and their values, by the variables with which
a user sets them."""

INTERVAL_SECONDS = 60.0
"""Seconds between two times that a job gives free memory back. Tensors of changing sizes leave holes that fit few of
the next, so that kept memory would grow for hours. Asking for it again takes about a second."""

_given_back_at = -INTERVAL_SECONDS


def keep_freed_memory() -> None:
    """Let malloc keep freed memory in this process, if it is glibc's. What the user has set by variables stays.

    Threads that start later use one heap together, since glibc's other heaps have no room for blocks of 64 MB. Threads
    that exist may keep theirs, so a program calls this before it starts threads; the deployments of prefect.yaml, whose
    processes begin with Prefect's threads, have `MALLOC_ARENA_MAX` instead.
    """
    _set_malloc(os.getpid())


@cache
def _set_malloc(process: int) -> None:
    mallopt = _function("mallopt")
    if mallopt is None or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    for variable, (parameter, value) in PARAMETERS.items():
        if variable not in os.environ:
            mallopt(parameter, value)


def give_back_memory() -> None:
    """Give all free memory of malloc's heap back to the system; this takes half a millisecond if there is little."""
    global _given_back_at
    _given_back_at = time.monotonic()
    if trim := _function("malloc_trim"):
        trim(ctypes.c_size_t(0))


def give_back_memory_regularly() -> None:
    """Give free memory back if that was not done for `INTERVAL_SECONDS`. A job calls this after each of its parts."""
    if time.monotonic() - _given_back_at >= INTERVAL_SECONDS:
        give_back_memory()


@cache
def _function(name: str) -> Callable[..., int] | None:
    """Return a function of the C library; None if it has no such function, as on macOS and with musl."""
    return getattr(ctypes.CDLL(None), name, None)
