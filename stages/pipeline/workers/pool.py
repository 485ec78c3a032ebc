"""Calls in processes of their own, so that one that crashes or hangs costs itself alone.

Each worker has one call at a time, so that it is known of which call a worker died; that call is tried once more, on a
fresh one, and then given up, and the others never notice. Workers are started as plain programs, not through
multiprocessing: they need nothing of the main program and never import it, and end when it is gone, however it went.
"""

import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import fsspec

Result = TypeVar("Result")

START_SECONDS = 120.0

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**26),
    "MALLOC_TRIM_THRESHOLD_": str(2**26),
}
"""One thread a worker; and glibc keeps the memory of one block of samples for the next, since to ask the system for it
again takes as long as to decode a WAV file."""


class Died(Exception):
    """A call ended its process, twice; the message says how."""


class TookTooLong(Exception):
    """A call did not end in its time; the message says what that was."""


@dataclass(frozen=True)
class Start:
    """What a worker is told first."""

    filesystems: Mapping[str, Any]
    """How fsspec reaches stores and sources."""
    modules: Sequence[str]
    """Imported before the clock of the first call starts."""


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """What came of a call in a worker."""

    result: Result | None
    raised: bool = False


@dataclass(frozen=True)
class Call(Generic[Result]):
    """A function and what it is called with; both are pickled, a function by its name."""

    function: Callable[..., Result]
    arguments: Sequence[Any]

    def outcome(self) -> Outcome[Result]:
        """What comes of the call; of an exception only that there was one, since not every exception can be sent."""
        try:
            return Outcome(self())
        except Exception:
            return Outcome(None, raised=True)

    def __call__(self) -> Result:
        return self.function(*self.arguments)


class Pool:
    """Workers that are free, and new ones where none is. Threads ask it, as many as there are to be workers.

    Args:
        modules: what the calls import that takes long.
    """

    def __init__(self, modules: Sequence[str] = ()) -> None:
        self._modules = modules
        self._free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._all: list[_Worker] = []
        self._closed = False

    def do(self, call: Call[Result], seconds: float) -> Result:
        """The result of a call, made in a worker; one that raises there is made again here, where its error counts.

        Raises:
            TookTooLong: it is not done after `seconds`.
            Died: it ends its process.
            RuntimeError: a worker cannot be started.
        """
        last_words = "was not begun: the pool is closed"
        for _ in range(2):
            if self._closed:
                break
            worker = self._worker()
            try:
                outcome = worker.ask(call, seconds)
            except TimeoutError as error:
                worker.stop()
                raise TookTooLong(f"{seconds:.0f} s") from error
            except (EOFError, ConnectionError, pickle.UnpicklingError):
                last_words = worker.last_words()
                continue
            self._free.put(worker)
            return call() if outcome.raised else outcome.result
        raise Died(last_words)

    def close(self) -> None:
        """End all workers, busy or not."""
        self._closed = True
        for worker in list(self._all):
            worker.stop()

    def _worker(self) -> "_Worker":
        try:
            return self._free.get_nowait()
        except queue.Empty:
            worker = _Worker()
            self._all.append(worker)
            worker.start(self._modules)
            return worker


class _Worker:
    """A process that runs the module `worker`, in a session of its own so that Ctrl-C is ours to handle."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), **ENVIRONMENT}
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from stages.pipeline.workers.worker import main; main()", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **environment},
        )
        theirs.close()
        self._stream = self._socket.makefile("rwb")

    def start(self, modules: Sequence[str]) -> None:
        try:
            self.ask(Start(dict(fsspec.config.conf), modules), START_SECONDS)
        except (EOFError, OSError) as error:
            raise RuntimeError(f"expected a worker that reads recordings, got one that {self.last_words()}") from error

    def ask(self, question: object, seconds: float) -> Any:
        """The answer to a question.

        Raises:
            TimeoutError: it did not come in time.
            EOFError, ConnectionError: the process died.
        """
        self._socket.settimeout(seconds)
        pickle.dump(question, self._stream)
        self._stream.flush()
        return pickle.load(self._stream)

    def last_words(self) -> str:
        """How the process ended."""
        code = self._process.wait(timeout=START_SECONDS)
        if code < 0:
            return f"killed the decoder ({signal.Signals(-code).name})"
        return f"ended the decoder (exit code {code})"

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
