"""Compute threads: how many a job has, and how they wait for one another when other programs need the cores.

Between two pieces of a computation, OpenMP's threads wait for the slowest of them. In libgomp, which comes with torch,
they spin for some milliseconds before they sleep. That is the fastest way if each thread has a core of its own. If not,
it is ruinous: the spinning threads keep the core from the very thread that they wait for. Two runs of two threads each
on two cores each had a hundredth of the speed of a single run. Sleeping at once costs a single run up to a third, where
pieces are tiny. So the threads sleep, unless no other program has used their cores for a second.

libgomp reads its environment only once, when it is loaded. But while a process has more libgomp threads than there are
cores, all of them spin for a few microseconds only (GCC's manual of libgomp, GOMP_SPINCOUNT). So an additional team of
idle threads makes the computing threads sleep, and changes neither their number nor any result.
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
from stages.pipeline.memory import keep_freed_memory

NUMBER_VARIABLES = {"OMP_NUM_THREADS", "MKL_NUM_THREADS"}
"""Variables by which a user, or Dask for its workers, sets how many threads there are."""

WAITING_VARIABLES = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
"""Variables by which a user sets how threads wait."""

PROCESSOR_TIMES = Path("/proc/stat")

LOOK_SECONDS = 0.25
"""Seconds between two looks at how much other programs use the cores."""

QUIET_LOOKS = 4
"""How many quiet looks in a row it takes before threads spin; one busy look makes them sleep."""

SLACK = 0.3
"""How much other programs may use of the jobs' cores while threads spin, in cores. A Prefect server uses less."""


@contextmanager
def computing_threads(settings: Settings, at_once: int = 1) -> Iterator[None]:
    """Let a job in the calling thread compute with its share of the cores while the context lasts. From then on its
    process keeps freed memory too (`stages.pipeline.memory`).

    Args:
        at_once: how many jobs share the cores, each in a thread or process that calls this function.
    """
    import torch
    from threadpoolctl import threadpool_limits

    count = thread_count(settings, at_once)
    if count != torch.get_num_threads():
        torch.set_num_threads(count)
    threadpool_limits(count, user_api="blas")  # NumPy's BLAS; torch's was set above
    keep_freed_memory()
    with waiting_beside_others(count, at_once):
        yield


def thread_count(settings: Settings, at_once: int = 1) -> int:
    """Return how many threads each of `at_once` simultaneous jobs computes with. That is the job's share of
    `settings.threads`; else the number that the environment sets; else the job's share of this process's cores."""
    if settings.threads is None and NUMBER_VARIABLES & os.environ.keys():
        return _torch_threads()
    return max(1, (settings.threads or min(available_cores(), _torch_threads())) // at_once)


@cache
def _torch_threads() -> int:
    """Return the number of threads that torch chose by itself. It counts two logical processors of one core once."""
    import torch

    return torch.get_num_threads()


@contextmanager
def waiting_beside_others(count: int, at_once: int = 1) -> Iterator[None]:
    """Make OpenMP's threads sleep while they wait, except while other programs leave the cores that they need free.

    Args:
        count: threads of each job.
        at_once: how many jobs run at the same time.
    """
    set_by_user = WAITING_VARIABLES & os.environ.keys()
    if count == 1 or set_by_user or not PROCESSOR_TIMES.exists() or not (libraries := _openmp_libraries()):
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
    """Return the paths of the libgomp libraries that this process has loaded; wheels bring their own."""
    from threadpoolctl import threadpool_info

    return [library["filepath"] for library in threadpool_info() if library["prefix"] == "libgomp"]


class _IdleTeam:
    """Idle threads for each OpenMP library, one more than there are cores. They use no processor time, and end with the
    thread that started them."""

    def __init__(self, libraries: list[str]) -> None:
        self._libraries = libraries
        self._thread: threading.Thread | None = None
        self._end = threading.Event()

    def start(self) -> None:
        """Start the threads, if they are not running."""
        if self._thread is None:
            started = threading.Event()
            self._end.clear()
            self._thread = threading.Thread(target=self._hold, args=(started,), name="idle team", daemon=True)
            self._thread.start()
            started.wait()

    def stop(self) -> None:
        """End the threads, if they are running."""
        if self._thread is not None:
            self._end.set()
            self._thread.join()
            self._thread = None

    def _hold(self, started: threading.Event) -> None:
        try:
            for path in self._libraries:
                library = ctypes.CDLL(path)
                # A parallel region, as GCC compiles it, whose only work is to ask for a thread's number.
                size = ctypes.c_uint(len(usable_cpus()) + 1)
                library.GOMP_parallel(library.omp_get_thread_num, None, size, ctypes.c_uint(0))
        finally:
            started.set()
        self._end.wait()


@dataclass(frozen=True)
class _Usage:
    """Seconds of the clock, of all work on the processors that this process may use, and of this process's own work."""

    clock: float
    everyone: float
    own: float

    def others_since(self, before: "_Usage") -> float:
        """Return how many cores other programs used on average since an earlier reading."""
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
    """Let threads spin once other programs have left their cores free for several looks; make them sleep as soon as one
    does not."""
    quiet, before = 0, _usage()
    while not end.wait(LOOK_SECONDS):
        now = _usage()
        quiet = quiet + 1 if now.others_since(before) <= spare else 0
        before = now
        if quiet >= QUIET_LOOKS:
            asleep.stop()
        else:
            asleep.start()
