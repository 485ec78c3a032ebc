"""Threads that compute: how many a job has, and how they wait for one another beside other programs.

Between two pieces of a computation OpenMP's threads wait for the slowest of them. libgomp, which torch comes with, has
them spin for some milliseconds before they sleep: the fastest way where each has a core, and ruin where it has not,
since then they keep from the core the very thread that they wait for. Two runs of two threads on two cores had each a
hundredth of a lone run's speed. Sleeping at once costs a lone run up to a third, where pieces are tiny. So the threads
sleep, unless nobody else has used their cores for a second.

libgomp reads its environment once, when it is loaded. But while a process has more of its threads than there are cores,
all of them spin a few microseconds only (GCC's manual of libgomp, GOMP_SPINCOUNT); so a team of idle threads more has
them sleep, and none is changed: no result is.
"""

import ctypes
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from schemas import Settings
from stages.pipeline.cores import available_cores, usable_cpus

NUMBER_VARIABLES = {"OMP_NUM_THREADS", "MKL_NUM_THREADS"}
"""By which a user, or Dask for its workers, says how many threads there are."""

WAITING_VARIABLES = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
"""By which a user says how they wait."""

PROCESSOR_TIMES = Path("/proc/stat")

LOOK_SECONDS = 0.25
"""Between two looks at what others use of the cores."""

QUIET_LOOKS = 4
"""In a row, before threads spin; the first busy one has them sleep."""

SLACK = 0.3
"""Of a core: what others may use of it while threads spin. A Prefect server takes less."""


@contextmanager
def computing_threads(settings: Settings, at_once: int = 1) -> Iterator[None]:
    """Have a job, in the calling thread, compute with its share of the cores as long as the context lasts.

    Args:
        at_once: jobs that share them, each in a thread or process that calls this.
    """
    import torch
    from threadpoolctl import threadpool_limits

    count = thread_count(settings, at_once)
    if count != torch.get_num_threads():
        torch.set_num_threads(count)
    threadpool_limits(count, user_api="blas")  # NumPy's; torch's has followed
    with waiting_beside_others(count, at_once):
        yield


def thread_count(settings: Settings, at_once: int = 1) -> int:
    """Return how many threads each of so many jobs at once computes with: its share of `settings.threads`, else what
    the environment says, else its share of the cores of this process."""
    if settings.threads is None and NUMBER_VARIABLES & os.environ.keys():
        return _torch_threads()
    return max(1, (settings.threads or min(available_cores(), _torch_threads())) // at_once)


@cache
def _torch_threads() -> int:
    """Return the number that torch chose by itself: it counts two logical processors of one core once."""
    import torch

    return torch.get_num_threads()


@contextmanager
def waiting_beside_others(count: int, at_once: int = 1) -> Iterator[None]:
    """Have OpenMP's threads sleep while they wait, except while the cores that they need are free of others' work.

    Args:
        count: threads of each job.
        at_once: jobs at the same time.
    """
    libraries = _openmp_libraries()
    if count == 1 or WAITING_VARIABLES & os.environ.keys() or not libraries or not PROCESSOR_TIMES.exists():
        yield
        return
    end, asleep = threading.Event(), _IdleTeam(libraries)
    asleep.start()
    spare = max(0, len(usable_cpus()) - count * at_once) + SLACK
    watcher = threading.Thread(target=_watch, args=(asleep, spare, end), name="waiting", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        end.set()
        watcher.join()
        asleep.stop()


def _openmp_libraries() -> list[str]:
    """Return the files of the libgomp that this process has loaded; wheels bring their own."""
    from threadpoolctl import threadpool_info

    return [library["filepath"] for library in threadpool_info() if library["prefix"] == "libgomp"]


class _IdleTeam:
    """As many idle threads of each OpenMP library as there are cores, and one more. They end with the thread that began
    them, and take no time."""

    def __init__(self, libraries: list[str]) -> None:
        self._libraries = libraries
        self._thread: threading.Thread | None = None
        self._end = threading.Event()

    def start(self) -> None:
        """Begin them, if there are none."""
        if self._thread is None:
            begun = threading.Event()
            self._end.clear()
            self._thread = threading.Thread(target=self._hold, args=(begun,), name="idle team", daemon=True)
            self._thread.start()
            begun.wait()

    def stop(self) -> None:
        """End them, if there are some."""
        if self._thread is not None:
            self._end.set()
            self._thread.join()
            self._thread = None

    def _hold(self, begun: threading.Event) -> None:
        try:
            for path in self._libraries:
                library = ctypes.CDLL(path)
                # A parallel region, as GCC compiles it, whose work is to ask for a thread's number.
                size = ctypes.c_uint(len(usable_cpus()) + 1)
                library.GOMP_parallel(library.omp_get_thread_num, None, size, ctypes.c_uint(0))
        finally:
            begun.set()
        self._end.wait()


@dataclass(frozen=True)
class _Usage:
    """Seconds: of the clock, of all work on the processors that this process may use, and of its own."""

    clock: float
    everyone: float
    own: float

    def others_since(self, before: "_Usage") -> float:
        """Return how many cores others used, in the mean."""
        spent = self.everyone - before.everyone - (self.own - before.own)
        return spent / (self.clock - before.clock)


def _usage() -> _Usage:
    names = {f"cpu{number}" for number in usable_cpus()}
    ticks = 0
    for line in PROCESSOR_TIMES.read_text(encoding="ascii").splitlines():
        name, *times = line.split()
        if name in names:
            user, nice, system, _idle, _waiting, interrupts, soft_interrupts, stolen = map(int, times[:8])
            ticks += user + nice + system + interrupts + soft_interrupts + stolen
    return _Usage(time.perf_counter(), ticks / os.sysconf("SC_CLK_TCK"), time.process_time())


def _watch(asleep: _IdleTeam, spare: float, end: threading.Event) -> None:
    """Have threads spin once others have left their cores free for some looks, and sleep as soon as they do not."""
    quiet, before = 0, _usage()
    while not end.wait(LOOK_SECONDS):
        now = _usage()
        quiet = quiet + 1 if now.others_since(before) <= spare else 0
        before = now
        if quiet >= QUIET_LOOKS:
            asleep.stop()
        else:
            asleep.start()
