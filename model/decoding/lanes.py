"""Decoding in lanes: threads on a CPU that each decode a share of the sequences, with slots and a cache of their own.

When all cores share each matrix product, they wait for each other a thousand times a step; between products, in Python
and small operators, all but one are idle. If there are enough sequences, it is faster to give each core a lane of its
own. Only the weights are shared.

Lanes do not change the bits of a sequence. Before they are used, `model.kernels.packed_linear.has_same_bits_with`
checks that a step's products have the same bits with a lane's number of threads. Prompts and conditions are read with
all threads, for one lane at a time.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from queue import SimpleQueue

import torch
from jaxtyping import Int
from torch import Tensor

from model.decoding.sequences import SequenceRequest
from model.kernels.choosing import MOST_LANES, computing_with

LEAST_SLOTS = 16
"""Minimum number of slots of a lane. With fewer rows, one product on all threads is faster than each lane's product on
its own threads."""
Finished = tuple[int, Int[Tensor, "K _"]]
"""The index of a request, and its whole sequence."""
Admitting = Callable[[], AbstractContextManager[None]]
"""Makes the context in which a decoder reads the known steps and conditions of sequences that begin (prefill)."""


@dataclass(frozen=True, eq=False)
class Lane:
    """The callbacks by which a lane coordinates with the other lanes and with the thread that reads its results."""

    admitting: Admitting
    """Makes the context for prefill: one lane at a time, with all threads."""
    is_over: Callable[[], bool]
    """Returns true when nobody waits for the lane's sequences any more."""
    progress: Callable[[int], None]
    """To be called with the number of frames that were just generated."""


def most_lanes() -> int:
    """Return the maximum number of lanes for the calling thread's share of the cores."""
    return min(MOST_LANES, torch.get_num_threads())


def lane_count(slots: int) -> int:
    """Return the number of lanes among which `slots` slots are divided."""
    return max(1, min(most_lanes(), slots // LEAST_SLOTS))


def decode_in_lanes(
    decode: Callable[[Sequence[SequenceRequest], Lane], Iterator[Finished]],
    requests: Sequence[SequenceRequest],
    lanes: int,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Finished]:
    """Yield the index of each request and its whole sequence, as soon as a lane has finished it.

    Each lane is a thread. The threads end when this generator ends, however it ends. An exception in a thread is raised
    here.

    Args:
        decode: decodes some of the requests in the thread that calls it.
        lanes: the number of lanes.
        progress: called in the caller's thread with the number of frames that were just generated.
    """
    threads = torch.get_num_threads()
    longest_first = sorted(range(len(requests)), key=lambda number: -requests[number].steps_to_sample)
    events: SimpleQueue[Finished | int | BaseException | None] = SimpleQueue()
    finished, prefill_lock = threading.Event(), threading.Lock()

    @contextmanager
    def prefill_context() -> Iterator[None]:
        with prefill_lock, computing_with(threads):
            yield

    lane = Lane(prefill_context, finished.is_set, events.put)

    def run(numbers: Sequence[int]) -> None:
        torch.set_num_threads(threads // lanes)  # for this thread only: OpenMP has a number for each thread
        try:
            with torch.inference_mode():
                share = [requests[number] for number in numbers]
                for index, sequence in decode(share, lane):
                    events.put((numbers[index], sequence))
        except BaseException as error:
            events.put(error)
        else:
            events.put(None)

    workers = [
        threading.Thread(target=run, args=(longest_first[first::lanes],), name=f"decoding lane {first}")
        for first in range(lanes)
    ]
    for worker in workers:
        worker.start()
    try:
        running = lanes
        while running:
            event = events.get()
            if isinstance(event, BaseException):
                raise event
            if event is None:
                running -= 1
            elif isinstance(event, int):
                if progress is not None:
                    progress(event)
            else:
                yield event
    finally:
        finished.set()
        for worker in workers:
            worker.join()
        torch.set_num_threads(threads)  # MKL has one number for the whole process, which the lanes have changed
