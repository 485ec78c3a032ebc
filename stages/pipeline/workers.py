"""Calls in separate processes, many at a time, with the results in order. Code that reads recordings uses it.

Decoders are large C programs that read files from strangers, so a decoder that crashes or hangs must cost no more than
its own file. Each worker has one call at a time, so it is known which call killed a worker. That call is tried once
more on a new worker and then given up; other calls are not affected. Workers are started as plain programs, not through
multiprocessing: they never import the main program, and they end when it is gone, however it ended.
"""

import importlib
import math
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import fsspec

Item = TypeVar("Item", bound=object)
Result = TypeVar("Result")

START_SECONDS = 120.0

STOP_CHECK_SECONDS = 0.5
"""Seconds between two checks whether the run was asked to stop."""

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**26),
    "MALLOC_TRIM_THRESHOLD_": str(2**26),
}
"""One thread for each worker. The other two settings let glibc keep the memory of one block of samples for the next,
since asking the system for it again takes as long as decoding a WAV file."""


class WorkerDied(Exception):
    """A call ended its process twice; the message says how."""


class WorkerTimeout(Exception):
    """A call did not end in its time; the message is that time."""


@dataclass(frozen=True)
class WorkerSetup:
    """The first message to a worker."""

    filesystems: Mapping[str, Any]
    """The configuration of fsspec, by which the worker reaches stores and sources."""
    modules: Sequence[str]
    """Modules to import before the clock of the first call starts."""


@dataclass(frozen=True)
class CallResult(Generic[Result]):
    """What a worker sends back for a call."""

    value: Result | None
    raised: bool = False
    """Whether the call raised an exception. The exception itself is not sent, since not every exception can be."""


@dataclass(frozen=True)
class Call(Generic[Result]):
    """A function and its arguments; both are pickled, the function by its name."""

    function: Callable[..., Result]
    arguments: Sequence[Any]

    def __call__(self) -> Result:
        return self.function(*self.arguments)


class WorkerPool:
    """Idle workers, and new ones if none is idle. The number of threads that call it decides how many workers there
    are.

    Args:
        modules: modules that the calls need and that take long to import.
    """

    def __init__(self, modules: Sequence[str] = ()) -> None:
        self._modules = modules
        self._free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._all: list[_Worker] = []
        self._closed = False

    def run(self, call: Call[Result], seconds: float) -> Result:
        """Make a call in a worker. If it raises there, it is made again in this process, so that its own exception is
        raised.

        Raises:
            WorkerTimeout: the call is not done after `seconds`.
            WorkerDied: the call ended its process twice, or the pool is closed.
            RuntimeError: a worker cannot be started.
        """
        exit_reason = "was not begun: the pool is closed"
        for _ in range(2):
            if self._closed:
                break
            worker = self._free_worker()
            try:
                result = worker.request(call, seconds)
            except TimeoutError as error:
                worker.stop()
                raise WorkerTimeout(f"{seconds:.0f} s") from error
            except (EOFError, ConnectionError, pickle.UnpicklingError):
                exit_reason = worker.exit_reason()
                continue
            self._free.put(worker)
            return call() if result.raised else result.value
        raise WorkerDied(exit_reason)

    def close(self) -> None:
        """End all workers, busy or not."""
        self._closed = True
        for worker in list(self._all):
            worker.stop()

    def _free_worker(self) -> "_Worker":
        try:
            return self._free.get_nowait()
        except queue.Empty:
            worker = _Worker()
            self._all.append(worker)
            worker.start(self._modules)
            return worker


class _Worker:
    """A process that runs `serve_calls`, in a session of its own, so that Ctrl-C does not reach it."""

    def __init__(self) -> None:
        self._socket, of_worker = socket.socketpair()
        environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), **ENVIRONMENT}
        program = "from stages.pipeline import workers; workers.serve_calls()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, str(of_worker.fileno())],
            pass_fds=[of_worker.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **environment},
        )
        of_worker.close()
        self._stream = self._socket.makefile("rwb")

    def start(self, modules: Sequence[str]) -> None:
        """Let the worker import what its calls need.

        Raises:
            RuntimeError: the process does not start.
        """
        try:
            self.request(WorkerSetup(dict(fsspec.config.conf), modules), START_SECONDS)
        except (EOFError, OSError) as error:
            raise RuntimeError(f"expected a worker that reads recordings, got one that {self.exit_reason()}") from error

    def request(self, message: object, seconds: float) -> Any:
        """Send a message and return the worker's answer.

        Raises:
            TimeoutError: the answer did not come in time.
            EOFError, ConnectionError: the process died.
        """
        self._socket.settimeout(seconds)
        pickle.dump(message, self._stream)
        self._stream.flush()
        return pickle.load(self._stream)

    def exit_reason(self) -> str:
        """Return how the process ended, as a clause for an error message."""
        code = self._process.wait(timeout=START_SECONDS)
        if code < 0:
            return f"killed the decoder ({signal.Signals(-code).name})"
        return f"ended the decoder (exit code {code})"

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


def serve_calls() -> None:
    """Be a worker: answer calls one at a time, on the socket whose descriptor is the first argument of the program,
    until the other end is closed."""
    with socket.socket(fileno=int(sys.argv[1])) as connection, connection.makefile("rwb") as stream:
        setup: WorkerSetup = pickle.load(stream)
        fsspec.config.conf.update(setup.filesystems)
        for name in setup.modules:
            importlib.import_module(name)
        pickle.dump("ready", stream)
        stream.flush()
        while True:
            try:
                call: Call[Any] = pickle.load(stream)
            except (EOFError, ConnectionError):
                return
            try:
                result = CallResult(call())
            except Exception:
                result = CallResult(None, raised=True)
            pickle.dump(result, stream, protocol=pickle.HIGHEST_PROTOCOL)
            stream.flush()


@dataclass(frozen=True)
class _InWork(Generic[Item, Result]):
    item: Item
    load: float
    result: "Future[Result]"


def map_in_order(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    max_ahead: int,
    check_stopped: Callable[[], None],
    load: Callable[[Item], float] = lambda item: 0.0,
    max_load: float = math.inf,
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with what `work` returned for it, in the order of the items. If `work` raised an exception, it is
    raised when it is the item's turn. Close the iterator to end early.

    Args:
        work: called in `threads` threads.
        items: taken in the caller's thread, as there is room.
        max_ahead: how many items may be in work or done ahead of the item that the caller has.
        check_stopped: called while waiting and before each item is yielded; an exception that it raises ends
            everything.
        load: the weight of an item. The items in hand, with the caller's own, weigh no more than `max_load` together;
            an item that weighs more is in hand alone.
    """
    ahead, in_hand = deque[_InWork[Item, Result]](), 0.0
    remaining = iter(items)
    following = next(remaining, None)
    executor = ThreadPoolExecutor(max(1, threads))
    try:
        while True:
            while following is not None and len(ahead) < max(1, max_ahead):
                weight = load(following)
                if in_hand + weight > max_load and in_hand > 0:
                    break
                ahead.append(_InWork(following, weight, executor.submit(work, following)))
                in_hand += weight
                following = next(remaining, None)
            if not ahead:
                break
            while not wait([ahead[0].result], timeout=STOP_CHECK_SECONDS).done:
                check_stopped()
            check_stopped()
            first = ahead.popleft()
            yield first.item, first.result.result()
            in_hand -= first.load
    finally:
        # Items in work are not waited for: the caller may have to end them by other means.
        executor.shutdown(wait=False, cancel_futures=True)
