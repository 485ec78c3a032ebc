"""Data-parallel training (PyTorch's `DistributedDataParallel`, arXiv:2006.15704): the processes of one machine that
train together, a GPU each, how they are started and stopped, and what they exchange.

Every process has the whole model and works on some micro-batches of each step; their gradients are averaged, so that
all make the same update. A training in one process is the case of one, in which nothing is exchanged.

torchrun's agent would do the starting, but it ends its processes by the very signal that asks a run to stop, and
progress, results and the wish to stop would still need ways of their own. Here each process has a pipe to the run.
Through it the run says that it wishes to stop, and each process what it did. The operating system closes a pipe with
the process at its end, however that ends: so a process that died is named at once, and those whose run was killed end
themselves.
"""

import logging
import math
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing import current_process, get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from huggingface_hub.utils.tqdm import disable_progress_bars
from jaxtyping import Float
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from model.objective import LossModule
from stages.pipeline.contract import Context, Progress, Stopped
from stages.pipeline.threads import waiting_beside_others

STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM}
"""The signals that ask a run to stop, its whole process group too. The run tells its processes; they are deaf to it."""

POLL_SECONDS = 0.2
"""Time between two looks at whether the run is to stop."""

FAILURE_GRACE_SECONDS = 2.0
"""How long after a failure another process may turn out to have died before it, so that the one to blame is named."""

EXIT_SECONDS = 10.0
"""Time that a process which has reported its end has to exit in good order."""

COLLECTIVE_TIMEOUT = timedelta(days=7)
"""How long a process waits for the others: while the first one evaluates and writes, and not because some could be
gone, for that ends the training at once."""


@dataclass(frozen=True)
class Rank:
    """One of the processes that train together. The first one logs, evaluates and writes."""

    number: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        return self.number == 0

    @contextmanager
    def process_group(self, port: int, device: str) -> Iterator[None]:
        """Connect this process with the others as long as the context lasts.

        Args:
            port: on this machine, where whoever started them keeps the store by which they find each other.
        """
        if device == "cuda":
            torch.cuda.set_device(self.number)
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        store = dist.TCPStore("127.0.0.1", port, is_master=False)  # type: ignore[attr-defined]
        dist.init_process_group(
            backend, store=store, rank=self.number, world_size=self.world_size, timeout=COLLECTIVE_TIMEOUT
        )
        try:
            yield
        finally:
            dist.destroy_process_group()

    def distributed(self, loss_module: LossModule) -> LossModule | DistributedDataParallel:
        """Wrap a module so that gradients are averaged over all processes as they come about."""
        return loss_module if self.world_size == 1 else DistributedDataParallel(loss_module, broadcast_buffers=False)

    def broadcast_flag(self, flag: bool) -> bool:
        """Return the first process's flag. No device is waited for."""
        if self.world_size == 1:
            return flag
        value = torch.tensor([flag])
        dist.broadcast(value, 0)
        return bool(value)

    def all_reduce(self, values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the sum over all processes."""
        if self.world_size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def broadcast_buffers(self, buffers: Iterable[Tensor]) -> None:
        """Give all processes the first one's values, in place. Codebooks that learn by moving averages need it: each
        process has moved them by its own examples, and so they learn from the first one's."""
        if self.world_size > 1:
            for buffer in buffers:
                dist.broadcast(buffer, 0)


Result = TypeVar("Result")
Work = Callable[[Context, Rank], Result]
"""What each process does; it can be pickled."""


class ProcessFailed(RuntimeError):
    """One of the processes met an error, whose traceback is the cause of this one."""


class ProcessDied(ChildProcessError):
    """One of the processes was ended by something else, most often for want of memory."""


@dataclass(frozen=True)
class _Started:
    what: str
    total: int
    unit: str


@dataclass(frozen=True)
class _Advanced:
    count: int
    note: str


@dataclass(frozen=True)
class _Done:
    result: Any


@dataclass(frozen=True)
class _Failed:
    at: float
    """When, by the clock that all processes of a machine share, s."""
    error: str
    trace: str
    wrong_value: bool
    stopped: bool


def process_count(context: Context, most: int) -> int:
    """Return how many processes a training is to have: as `settings.processes` says, else one for each GPU.

    Args:
        most: micro-batches of a step, which can be worked on at the same time.

    Raises:
        ValueError: more are asked for than there are GPUs, or some where none can be started.
    """
    devices = torch.cuda.device_count() if context.device == "cuda" else None
    wanted = context.settings.processes
    if wanted is not None and devices is not None and wanted > devices:
        raise ValueError(f"expected settings.processes up to {devices}, the GPUs of this machine, got {wanted}")
    count = min(wanted or devices or 1, most)
    if count > 1 and current_process().daemon:
        raise ValueError(
            f"expected settings.processes = 1 where a run is itself a worker's (settings.task_runner = "
            f"{context.settings.task_runner}), got {count}"
        )
    return count


def run_together(work: Work[Result], context: Context, count: int) -> Result:
    """Do a piece of work in several processes of this machine, and return what the first one returns.

    Their progress is the run's, and so is its wish to stop: in the first process `work` asks `context.check_stopped()`
    as ever, and passes it on to the others (`Rank.broadcast_flag`).

    Raises:
        ValueError: one of them raised it.
        Stopped: they stopped, as the run was asked to.
        ProcessFailed, ProcessDied: another error, or a process that is no more; the message names it.
    """
    spawn = get_context("spawn")  # a fork of a process that has used CUDA cannot use it
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    threads = max(1, torch.get_num_threads() // count)
    processes: list[SpawnProcess] = []
    connections: list[Connection] = []
    resource_tracker.ensure_running()  # whose start would undo the next line
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # a child begins with the mask of its parent
    try:
        for number in range(count):
            connection, other_end = spawn.Pipe()
            arguments = (work, context, Rank(number, count), other_end, store.port, threads)
            process = spawn.Process(target=_run_process, args=arguments, name=f"{context.stage}-{number}")
            process.start()
            other_end.close()
            processes.append(process)
            connections.append(connection)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        result: Result = _collect(context, processes, connections)
        return result
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for connection in connections:
            connection.close()  # which ends whoever still works
        for process in processes:
            process.join()


def _collect(context: Context, processes: list[SpawnProcess], connections: list[Connection]) -> Any:
    """Pass on the messages of the processes until all are done, or one has failed and the others had time to fail too.

    Returns:
        The result of the first process.
    """
    results: dict[int, Any] = {}
    failures: dict[int, _Failed] = {}
    asked_to_stop, until = False, math.inf
    count = len(connections)
    while len(results) + len(failures) < count and time.monotonic() < until:
        if context.stop.is_set() and not asked_to_stop:
            asked_to_stop = True
            for connection in connections:
                _send(connection, True)
        ended = results.keys() | failures.keys()
        working = {connection: number for number, connection in enumerate(connections) if number not in ended}
        for ready in wait(list(working), POLL_SECONDS):
            number = working[ready]  # type: ignore[index]
            try:
                message = connections[number].recv()
            except (EOFError, ConnectionResetError):
                raise _died(processes[number], number, count) from None
            match message:
                case _Started():
                    context.progress.start(message.what, message.total, message.unit)
                case _Advanced():
                    context.progress.advance(message.count, message.note)
                case _Done():
                    results[number] = message.result
                case _Failed():
                    failures[number] = message
                    until = min(until, time.monotonic() + FAILURE_GRACE_SECONDS)
    for number in (*results, *failures):
        processes[number].join(EXIT_SECONDS)
    if not failures:
        return results[0]
    number, first = min(failures.items(), key=lambda item: item[1].at)
    if first.stopped:
        raise Stopped(first.error)
    cause = ProcessFailed(f"in process {number + 1} of {count}:\n{first.trace}")
    if first.wrong_value:
        raise ValueError(first.error) from cause
    raise ProcessFailed(f"process {number + 1} of {count} failed: {first.error}") from cause


def _died(process: SpawnProcess, number: int, count: int) -> ProcessDied:
    """Make the error of a process that ended without a message."""
    process.join()
    code = process.exitcode or 0
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return ProcessDied(
        f"process {number + 1} of {count} {how}; what was saved is kept, and the same command goes on from there"
    )


class _SentProgress(Progress):
    """Progress of the first process, sent to the run."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def start(self, what: str, total: int, unit: str) -> None:
        _send(self._connection, _Started(what, total, unit))

    def advance(self, count: int = 1, note: str = "") -> None:
        _send(self._connection, _Advanced(count, note))


def _run_process(
    work: Work[Any], context: Context, rank: Rank, connection: Connection, port: int, threads: int
) -> None:
    """Do the work of one process, from its start to its end."""
    if context.device == "cpu":
        torch.set_num_threads(threads)  # as many as all processes had if there were one
    disable_progress_bars()  # transformers' bars would break into the run's
    if not rank.is_main:
        logging.disable(logging.WARNING)  # which the first one gives
    stop = threading.Event()
    threading.Thread(target=_watch_run, args=(connection, stop), daemon=True).start()
    context = replace(context, progress=_SentProgress(connection) if rank.is_main else Progress(), stop=stop)
    try:
        with waiting_beside_others(torch.get_num_threads()), rank.process_group(port, context.device):
            try:
                _send(connection, _Done(work(context, rank)))
            except Exception as error:
                _send(connection, _failure(error))  # before the others hear that this one has gone, and fail for that
    except Exception as error:  # of meeting the others, or of parting from them
        _send(connection, _failure(error))


def _failure(error: Exception) -> _Failed:
    text = str(error) if isinstance(error, ValueError | Stopped) else f"{type(error).__name__}: {error}"
    kinds = isinstance(error, ValueError), isinstance(error, Stopped)
    return _Failed(time.monotonic(), text, traceback.format_exc(), *kinds)


def _watch_run(connection: Connection, stop: threading.Event) -> None:
    """Set `stop` when the run asks for it; end the process at once when the run is gone, wherever the process is."""
    try:
        while connection.recv():
            stop.set()
    except (EOFError, OSError):
        os._exit(1)


def _send(connection: Connection, message: object) -> None:
    """Send a message to a process that may be gone, which is noticed elsewhere."""
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.send(message)
