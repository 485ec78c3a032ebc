"""Leading and following: how the processes of one training are started, get their work, and end.

The run is the first process. It does all that it does without others: it plans, shows progress, is asked to stop, and
writes. The other processes follow it: they wait for work, do their part of it, and wait again. torchrun starts a run
and its followers together, on one machine or several, and starts all of them again where one has died; the run then
resumes from the saved state. Without torchrun a run starts its followers itself (`torch.multiprocessing`), one for each
further GPU of its machine.

A process that ends, for whatever reason, closes its connections, and that is an error at once for every process that
waits for it. So no process outlives the others. A follower that ends with an error first writes it into the key-value
store through which the processes found each other, and the run raises it as its own.
"""

import logging
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import current_process, resource_tracker
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from huggingface_hub.utils.tqdm import disable_progress_bars
from torch.distributed import Store, TCPStore, rendezvous  # type: ignore[attr-defined]
from torch.multiprocessing.spawn import start_processes

from stages.pipeline.contract import Context, Stopped
from stages.pipeline.memory import keep_freed_memory
from stages.pipeline.threads import waiting_beside_others
from stages.train.distributed import Rank, joined

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""The signals that ask a run to stop. They may reach one process, its whole process group, or all processes of a
machine. One process is enough: all stop after the same step."""

STOPPED = 130
"""The exit code of a follower that was asked to stop, the same as a run's."""

FAILURE_GRACE_SECONDS = 2.0
"""Time after an error in which another process may report the error that caused it."""

EXIT_SECONDS = 10.0
"""Time in which a follower without work must exit by itself."""

Result = TypeVar("Result")
Work = Callable[[Context, Rank], Result]
"""The work of each process; it can be pickled."""


class ProcessFailed(RuntimeError):
    """One of the processes met an error; its traceback is in the message or the cause of this one."""


class ProcessDied(ChildProcessError):
    """One of the processes was ended from outside, most often because memory ran out."""


@dataclass(frozen=True)
class _Assignment:
    """A piece of work for all processes."""

    work: Work[Any]
    context: Context
    threads: int
    """Threads that each process computes with."""


@dataclass(frozen=True)
class _Failure:
    """The error that a follower ended with."""

    error: str
    trace: str
    wrong_value: bool


@dataclass
class World:
    """The processes of one training, as one of them sees them."""

    rank: Rank
    store: Store
    busy: bool = False
    """Whether the followers are still at work."""

    def lead(self, work: Work[Result], context: Context) -> Result:
        """Have all processes do a piece of work, this one included, and return this process's result.

        Raises:
            ValueError: one of the processes raised it.
            Stopped: all stopped, because one of them was asked to.
            ProcessFailed, ProcessDied: a follower met another error, or died.
        """
        threads_before = torch.get_num_threads()
        threads = max(1, threads_before // self.rank.local_world_size)
        self._send(_Assignment(work, context, threads))
        self.busy = True
        torch.set_num_threads(threads)
        try:
            result = work(context, self.rank)
        except Exception as error:
            # Objects of torch that the frames hold must be freed before the connections close: freeing them later would
            # crash.
            traceback.clear_frames(error.__traceback__)
            if isinstance(error, Stopped):
                self.busy = False
            elif not isinstance(error, ValueError):
                self._blame_follower(error)
            raise
        finally:
            torch.set_num_threads(threads_before)
        self.busy = False
        return result

    def dismiss(self) -> None:
        """Let the followers end. Followers at work that this process has given up are not asked: they end with an error
        when this process closes its connections."""
        if not self.busy:
            with suppress(RuntimeError):  # the followers are gone
                self._send(None)

    def follow(self) -> int:
        """Do the work of the run, piece by piece, until there is no more; return an exit code."""
        stop, parent = threading.Event(), os.getppid()

        def handle(number: int, frame: object) -> None:
            if os.getppid() != parent:  # the parent is gone, which arrives as a signal too
                os._exit(1)
            stop.set()

        for number in STOP_SIGNALS:
            signal.signal(number, handle)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        disable_progress_bars()  # transformers' bars would break up the run's
        logging.disable(logging.WARNING)  # the run logs them
        try:
            while (assignment := self._receive()) is not None:
                context = replace(assignment.context, stop=stop)
                if context.device == "cpu":
                    torch.set_num_threads(assignment.threads)
                    keep_freed_memory()
                with waiting_beside_others(torch.get_num_threads()), suppress(Stopped):
                    assignment.work(context, self.rank)
        except Exception as error:
            failure = _Failure(_text(error), traceback.format_exc(), isinstance(error, ValueError))
            with suppress(RuntimeError):  # the run is gone, so nobody reads it
                self.store.set(_failure_key(self.rank.number), pickle.dumps(failure))  # type: ignore[arg-type]
            return 1
        # A follower that was asked to stop does not return 0: after a 0, torch's agents wait minutes for the other
        # processes.
        return STOPPED if stop.is_set() else 0

    def _send(self, assignment: _Assignment | None) -> None:
        dist.broadcast_object_list([assignment], 0, self.rank.waiting, torch.device("cpu"))

    def _receive(self) -> _Assignment | None:
        received: list[_Assignment | None] = [None]
        dist.broadcast_object_list(received, 0, self.rank.waiting, torch.device("cpu"))
        return received[0]

    def _blame_follower(self, error: Exception) -> None:
        """Raise the error that a follower left, if one did: the error of this process may only say that a follower is
        silent."""
        until = time.monotonic() + FAILURE_GRACE_SECONDS
        while time.monotonic() < until:
            for number in range(1, self.rank.world_size):
                if self.store.check([_failure_key(number)]):
                    failure: _Failure = pickle.loads(self.store.get(_failure_key(number)))
                    if not _is_lost_connection(failure.error):
                        raise self._error_of(number, failure)
            time.sleep(0.05)
        if _is_lost_connection(str(error)) or isinstance(error, dist.DistError):
            raise ProcessDied(
                "another process of this training has ended; the saved state is kept, and the same command resumes "
                "from it"
            ) from error

    def _error_of(self, number: int, failure: _Failure) -> Exception:
        where = f"process {number + 1} of {self.rank.world_size}"
        raised = ValueError(failure.error) if failure.wrong_value else ProcessFailed(f"{where} failed: {failure.error}")
        raised.__cause__ = ProcessFailed(f"in {where}:\n{failure.trace}")  # the traceback of another process
        return raised


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def _failure_key(number: int) -> str:
    return f"segue/failure/{number}"


def _is_lost_connection(error: str) -> bool:
    """Return whether an error says that another process no longer answers; gloo has no class for such errors."""
    return "Connection closed by peer" in error or "Connection reset by peer" in error or "gloo/transport" in error


_started: list[World] = []
"""The world that torchrun started this process in, while `world_of_torchrun` is open."""


@contextmanager
def world_of_torchrun() -> Iterator[World]:
    """Join the processes that torchrun started together with this one, as long as the context lasts. The run leads; its
    followers end when it leaves the context.

    Raises:
        ValueError: torchrun may restart the processes of several machines, and these would find what the processes
            before them left in the key-value store.
    """
    max_restarts, shares_store = (os.environ[f"TORCHELASTIC_{name}"] for name in ("MAX_RESTARTS", "USE_AGENT_STORE"))
    if int(os.environ["GROUP_WORLD_SIZE"]) > 1 and int(max_restarts) > 0 and shares_store == "True":
        raise ValueError(
            "expected TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the environment of a torchrun of several machines that "
            "restarts processes (--max-restarts), got a store that would be used twice: set it on every machine, "
            "or leave --max-restarts at 0 (pytorch/pytorch#135712)"
        )
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    number, world_size, local_number, local_world_size = (int(os.environ[name]) for name in names)
    store, _, _ = next(rendezvous("env://"))
    with joined(store, number, world_size, local_number, local_world_size) as rank:
        world = World(rank, store)
        _started.append(world)
        try:
            yield world
        finally:
            _started.remove(world)
            if rank.is_main:
                world.dismiss()


def process_count(context: Context, most: int) -> int:
    """Return how many processes a training has: those that torchrun started, or else `settings.processes`, or else one
    for each GPU.

    Args:
        most: micro-batches of a step, which can be computed at the same time.

    Raises:
        ValueError: more processes are asked for than there are GPUs or micro-batches, or several in a worker that
            cannot start any.
    """
    if _started:
        count = _started[0].rank.world_size
        if count > most:
            raise ValueError(
                f"expected up to {most} processes, the micro-batches of a step (train.batch_size over "
                f"train.micro_batch_size), got the {count} that torchrun started"
            )
        return count
    devices = torch.cuda.device_count() if context.device == "cuda" else None
    wanted = context.settings.processes
    if wanted is not None and devices is not None and wanted > devices:
        raise ValueError(f"expected settings.processes up to {devices}, the GPUs of this machine, got {wanted}")
    count = min(wanted or devices or 1, most)
    if count > 1 and current_process().daemon:
        raise ValueError(
            f"expected settings.processes = 1 for a run inside a worker (settings.task_runner = "
            f"{context.settings.task_runner}), got {count}"
        )
    return count


def run_together(work: Work[Result], context: Context, count: int) -> Result:
    """Do a piece of work in several processes, this one being the first, and return this process's result.

    In every process `work` looks at `context.stop`, and passes a request to stop on to the others (`Rank.any_flag`).

    Args:
        count: number of processes, from `process_count`.

    Raises:
        ValueError: one of the processes raised it.
        Stopped: all stopped, because one of them was asked to.
        ProcessFailed, ProcessDied: a process met another error, or died; the message names it.
    """
    if _started:
        return _started[0].lead(work, context)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with _followers(store.port, count) as processes, joined(store, 0, count, 0, count) as rank:
        world = World(rank, store)
        try:
            return world.lead(work, context)
        except ProcessDied as error:
            raise _died(processes, error) from error
        finally:
            world.dismiss()
            if not world.busy:
                for process in processes:
                    process.join(EXIT_SECONDS)


@contextmanager
def _followers(port: int, count: int) -> Iterator[list[Any]]:
    """Start the followers of this process on its machine; all have ended when the context ends."""
    resource_tracker.ensure_running()  # starting it later would undo the next line
    mask_before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # until a follower has its handlers
    try:
        started = start_processes(
            _follow_here, (port, count), nprocs=count - 1, join=False, daemon=True, start_method="spawn"
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask_before)
    try:
        yield started.processes
    finally:
        for process in started.processes:
            process.kill()
            process.join()


def _follow_here(index: int, port: int, count: int) -> None:
    """Be a follower of a run on this machine."""
    store = TCPStore("127.0.0.1", port, is_master=False)
    with joined(store, index + 1, count, index + 1, count) as rank:
        code = World(rank, store).follow()
    sys.exit(code)


def _died(processes: list[Any], error: ProcessDied) -> ProcessDied:
    """Return an error that names the process that died and how; the given error where none can be named."""
    for number, process in enumerate(processes, start=2):
        process.join(FAILURE_GRACE_SECONDS)
        code = process.exitcode
        if code:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            where = f"process {number} of {len(processes) + 1}"
            return ProcessDied(f"{where} {how}; the saved state is kept, and the same command resumes from it")
    return error
