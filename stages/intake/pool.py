"""Reading many recordings at once, in processes of their own, with their results in order.

Each worker has one file at a time, so that it is known which file a worker that died was reading; that file is tried
once more, and then refused, and the others never notice. Workers are started as plain programs, not through
multiprocessing: they need nothing of the main program and never import it.
"""

import itertools
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import fsspec

from stages.intake.examination import Examined, Limits, Refused, examine
from stages.intake.listing import File

FILES_PER_WORKER = 8
"""A further worker is worth its start of about a second from so many files on."""

WAITING = 4
"""Files in hand for each worker: it bounds memory, and keeps the others busy while one reads a long file."""

BASE_SECONDS, SECONDS_PER_MIB = 300.0, 4.0
"""How long a worker may take for a file: a hundred times what is usual, so that only a decoder that hangs meets it."""

START_SECONDS = 120.0


def examine_all(
    files: Sequence[File], limits: Limits, workers: int, check_stopped: Callable[[], None]
) -> Iterator[tuple[File, Examined | Refused]]:
    """Each file with what came of it, in the order given.

    Args:
        workers: processes to read with; 0 takes one for each core, 1 reads in this process, where a decoder that
            crashes takes the run with it.
        check_stopped: asked between files; what it raises ends the reading.

    Raises:
        RuntimeError: the workers cannot be started.
    """
    count = min(workers or os.cpu_count() or 1, -(-len(files) // FILES_PER_WORKER))
    if workers == 1 or any(file.uri.startswith("memory://") for file in files):
        for file in files:
            check_stopped()
            yield file, examine(file.uri, limits)
        return
    pool = _Pool(limits)
    with ThreadPoolExecutor(max(1, count)) as threads:
        pending: deque[tuple[File, Future]] = deque()
        remaining = iter(files)
        try:
            while True:
                for file in itertools.islice(remaining, WAITING * count - len(pending)):
                    pending.append((file, threads.submit(pool.examine, file)))
                if not pending:
                    break
                while not wait([pending[0][1]], timeout=0.5).done:
                    check_stopped()
                check_stopped()
                file, future = pending.popleft()
                yield file, future.result()
        finally:
            for _, future in pending:
                future.cancel()
            pool.close()


class _Pool:
    """Workers that are free, and new ones where none is."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._all: list[_Worker] = []
        self._closed = False

    def examine(self, file: File) -> Examined | Refused:
        """Read one file, on a fresh worker a second time where the first died of it."""
        refused = Refused("crash", "")
        for _ in range(2):
            worker = self._worker()
            try:
                result = worker.ask((file.uri, self._limits), BASE_SECONDS + SECONDS_PER_MIB * file.size / 2**20)
            except TimeoutError:
                worker.stop()
                limit = BASE_SECONDS + SECONDS_PER_MIB * file.size / 2**20
                message = f"expected a file that is read in {limit:.0f} s, got one that the decoder did not finish"
                return Refused("timeout", message)
            except (EOFError, ConnectionError, pickle.UnpicklingError):
                refused = Refused("crash", f"expected a file that can be decoded, got one that {worker.last_words()}")
                if self._closed:
                    break
                continue
            self._free.put(worker)
            return result
        return refused

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
            worker.start()
            return worker


class _Worker:
    """A process that runs `stages.intake.worker`, in a session of its own so that Ctrl-C is ours to handle."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from stages.intake.worker import main; main()", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **environment},
        )
        theirs.close()
        self._stream = self._socket.makefile("rwb")

    def start(self) -> None:
        try:
            self.ask(dict(fsspec.config.conf), START_SECONDS)
        except (EOFError, OSError) as error:
            raise RuntimeError(f"expected a worker that reads recordings, got one that {self.last_words()}") from error

    def ask(self, question: object, seconds: float):  # type: ignore[no-untyped-def]
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
