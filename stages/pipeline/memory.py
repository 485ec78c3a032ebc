"""Freed memory: kept for the next tensors while jobs compute, and given back to the system after each stage.

glibc's malloc gives each freed block of more than 32 MB back to the system, and asks for it again for the next.
Networks for sound have such tensors in every layer, and the system fills each new page with zeros first: a segment of
HTDemucs took a million page faults, which was 28 % of its processor time.
"""

import ctypes
import os
from collections.abc import Callable
from functools import cache

VARIABLES = {"MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"}
"""Variables by which a user sets what malloc does."""

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
"""Parameters of glibc's `mallopt` (malloc.h)."""

LARGEST = 2**30
"""Bytes: malloc keeps freed blocks up to this size, and as much free memory at the end of its heap."""


def keep_freed_memory() -> None:
    """Let malloc keep freed memory in this process, unless the user has set what it does, or it is not glibc's.

    All threads that start later share one heap, since glibc's other heaps have no room for blocks of 64 MB. So this is
    best called before a process starts threads.
    """
    if not VARIABLES & os.environ.keys():
        _set_malloc(os.getpid())


@cache
def _set_malloc(process: int) -> None:
    if mallopt := _function("mallopt"):
        for parameter, value in ((MMAP_THRESHOLD, LARGEST), (TRIM_THRESHOLD, LARGEST), (ARENA_MAX, 1)):
            mallopt(parameter, value)


def give_back_memory() -> None:
    """Give all free memory of malloc's heap back to the system; this takes half a millisecond if there is little."""
    if trim := _function("malloc_trim"):
        trim(ctypes.c_size_t(0))


@cache
def _function(name: str) -> Callable[..., int] | None:
    """Return a function of the C library; None if it has no such function, as on macOS and with musl."""
    return getattr(ctypes.CDLL(None), name, None)
