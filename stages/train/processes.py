"""Several processes that do one piece of work together: started, listened to, stopped, and none outlives the run.

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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import current_process, get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from huggingface_hub.utils import disable_progress_bars

from stages.pipeline.contract import Context, Progress, Stopped
from stages.train.ranks import Rank

Result = TypeVar("Result")
Work = Callable[[Context, Rank], Result]
"""What each process does; it can be pickled."""

ASKING = {signal.SIGINT, signal.SIGTERM}
"""The signals that ask a run to stop, its whole process group too. The run tells its processes; they are deaf to it."""

LOOK_SECONDS = 0.2
"""Time between two looks at whether the run is to stop."""

LAST_WORDS_SECONDS = 2.0
"""How long after a failure another process may turn out to have died before it, so that the one to blame is named."""

ENDING_SECONDS = 10.0
"""What a process that has said its last word has to end in good order."""


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
    """How many processes a training is to have: as `settings.processes` says, else one for each GPU.

    Args:
        most: parts of a step that can be worked on at the same time.

    Raises:
        ValueError: more are asked for than there are GPUs, or where none can be started.
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
    """Do a piece of work in several processes of this machine, and give what the first one returns.

    Their progress is the run's, and so is its wish to stop: `work` asks `context.check_stopped()` as ever, in the first
    process, and tells the others (`Rank.broadcast_flag`).

    Raises:
        ValueError: one of them raised it.
        Stopped: they stopped, as the run was asked to.
        ProcessFailed, ProcessDied: another error, or a process that is no more; the message names it.
    """
    spawn = get_context("spawn")  # a fork of a process that has used CUDA cannot use it
    meeting = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    threads = max(1, torch.get_num_threads() // count)
    processes: list[SpawnProcess] = []
    ours: list[Connection] = []
    resource_tracker.ensure_running()  # whose start would undo the next line
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)  # a child begins with the mask of its parent
    try:
        for number in range(count):
            end, theirs = spawn.Pipe()
            arguments = (work, context, Rank(number, count), theirs, meeting.port, threads)
            process = spawn.Process(target=_take_part, args=arguments, name=f"{context.stage}-{number}")
            process.start()
            theirs.close()
            processes.append(process)
            ours.append(end)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return _listen(context, processes, ours)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for end in ours:
            end.close()  # which ends whoever still works
        for process in processes:
            process.join()


def _listen(context: Context, processes: list[SpawnProcess], ends: list[Connection]) -> Any:
    """Pass on what the processes say until all are done, or one has failed and the others had time to say so too."""
    results: dict[int, Any] = {}
    failures: dict[int, _Failed] = {}
    told, until = False, math.inf
    while len(results) + len(failures) < len(ends) and time.monotonic() < until:
        if context.stop.is_set() and not told:
            told = True
            for end in ends:
                _send(end, True)
        working = {end: number for number, end in enumerate(ends) if number not in results and number not in failures}
        for ready in wait(list(working), LOOK_SECONDS):
            number = working[ready]  # type: ignore[index]
            try:
                said = ends[number].recv()
            except (EOFError, ConnectionResetError):
                raise _died(processes[number], number, len(ends)) from None
            match said:
                case _Started():
                    context.progress.start(said.what, said.total, said.unit)
                case _Advanced():
                    context.progress.advance(said.count, said.note)
                case _Done():
                    results[number] = said.result
                case _Failed():
                    failures[number] = said
                    until = min(until, time.monotonic() + LAST_WORDS_SECONDS)
    for number in (*results, *failures):
        processes[number].join(ENDING_SECONDS)
    if not failures:
        return results[0]
    number, first = min(failures.items(), key=lambda item: item[1].at)
    if first.stopped:
        raise Stopped(first.error)
    cause = ProcessFailed(f"in process {number + 1} of {len(ends)}:\n{first.trace}")
    if first.wrong_value:
        raise ValueError(first.error) from cause
    raise ProcessFailed(f"process {number + 1} of {len(ends)} failed: {first.error}") from cause


def _died(process: SpawnProcess, number: int, count: int) -> ProcessDied:
    """What is to be said of a process that ended without a word."""
    process.join()
    code = process.exitcode or 0
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return ProcessDied(
        f"process {number + 1} of {count} {how}; what was saved is kept, and the same command goes on from there"
    )


class _Telling(Progress):
    """Progress of the first process, told to the run."""

    def __init__(self, end: Connection) -> None:
        self._end = end

    def start(self, what: str, total: int, unit: str) -> None:
        _send(self._end, _Started(what, total, unit))

    def advance(self, count: int = 1, note: str = "") -> None:
        _send(self._end, _Advanced(count, note))


def _take_part(work: Work[Any], context: Context, rank: Rank, end: Connection, port: int, threads: int) -> None:
    """What each process does, from its start to its end."""
    if context.device == "cpu":
        torch.set_num_threads(threads)  # as many as all processes had if there were one
    disable_progress_bars()  # transformers' bars would break into the run's
    if not rank.is_main:
        logging.disable(logging.WARNING)  # which the first one gives
    stop = threading.Event()
    threading.Thread(target=_obey, args=(end, stop), daemon=True).start()
    context = replace(context, progress=_Telling(end) if rank.is_main else Progress(), stop=stop)
    try:
        with rank.joined(port, context.device):
            try:
                _send(end, _Done(work(context, rank)))
            except Exception as error:
                _send(end, _failure(error))  # before the others hear that this one has gone, and fail for that
    except Exception as error:  # of meeting the others, or of parting from them
        _send(end, _failure(error))


def _failure(error: Exception) -> _Failed:
    text = str(error) if isinstance(error, ValueError | Stopped) else f"{type(error).__name__}: {error}"
    kinds = isinstance(error, ValueError), isinstance(error, Stopped)
    return _Failed(time.monotonic(), text, traceback.format_exc(), *kinds)


def _obey(end: Connection, stop: threading.Event) -> None:
    """Stop when the run says so; end at once when it is gone, wherever the process is."""
    try:
        while end.recv():
            stop.set()
    except (EOFError, OSError):
        os._exit(1)


def _send(end: Connection, what: object) -> None:
    """Say something to whoever may be gone, which is noticed elsewhere."""
    with suppress(BrokenPipeError, ConnectionResetError):
        end.send(what)
