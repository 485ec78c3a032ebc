"""Decoding in lanes: threads on a CPU that each decode a share of the sequences, with slots and a cache of their own.

Cores that share each product wait for one another a thousand times a step, and between products, in Python and small
operators, all but one of them idle. Where there are sequences enough for all, a lane for each is faster; only the
weights are shared. No sequence has other bits for it: a step's products have the same bits with any number of threads
that a lane may have, which is seen to first (`model.kernels.packed_linear.has_same_bits_with`), and what a sequence
begins with is read by all threads, for one lane at a time.
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
"""Slots of a lane at least. With fewer rows a product takes less time by all threads than each lane's by its own."""
Finished = tuple[int, Int[Tensor, "K _"]]
"""The number of a request, and its whole sequence."""
Admitting = Callable[[], AbstractContextManager[None]]
"""Makes the context in which it is read what a sequence begins with."""


@dataclass(frozen=True, eq=False)
class Lane:
    """What a lane has to do with the others."""

    admitting: Admitting
    is_over: Callable[[], bool]
    """Says whether nobody waits for its sequences any more."""
    progress: Callable[[int], None]
    """Is to be called with frames as they are made."""


def most_lanes() -> int:
    """Return how many lanes the calling thread's share of the cores has room for."""
    return min(MOST_LANES, torch.get_num_threads())


def lane_count(slots: int) -> int:
    """Return how many lanes so many slots in all are divided among."""
    return max(1, min(most_lanes(), slots // LEAST_SLOTS))


def decode_in_lanes(
    decode: Callable[[Sequence[SequenceRequest], Lane], Iterator[Finished]],
    requests: Sequence[SequenceRequest],
    lanes: int,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Finished]:
    """Yield the number of each request and its whole sequence as soon as that is finished, by threads that end with
    this generator, however it ends; what one of them raises is raised here.

    Args:
        decode: decodes some of the requests in the thread that calls it.
        progress: is called with frames as they are made, in this thread.
    """
    threads = torch.get_num_threads()
    longest_first = sorted(range(len(requests)), key=lambda number: -requests[number].steps_to_sample)
    told: SimpleQueue[Finished | int | BaseException | None] = SimpleQueue()
    over, reading = threading.Event(), threading.Lock()

    @contextmanager
    def by_all_threads() -> Iterator[None]:
        with reading, computing_with(threads):
            yield

    lane = Lane(by_all_threads, over.is_set, told.put)

    def run(numbers: Sequence[int]) -> None:
        torch.set_num_threads(threads // lanes)  # of this thread: OpenMP counts those of each by itself
        try:
            with torch.inference_mode():
                share = [requests[number] for number in numbers]
                for index, sequence in decode(share, lane):
                    told.put((numbers[index], sequence))
        except BaseException as error:
            told.put(error)
        else:
            told.put(None)

    workers = [
        threading.Thread(target=run, args=(longest_first[first::lanes],), name=f"decoding lane {first}")
        for first in range(lanes)
    ]
    for worker in workers:
        worker.start()
    try:
        running = lanes
        while running:
            event = told.get()
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
        over.set()
        for worker in workers:
            worker.join()
        torch.set_num_threads(threads)  # MKL has one number for all threads, which the lanes have changed
