"""A step's batch in micro-batches, each computed by one thread.

The convolutions of a small network are not faster with a second thread. With half of the batch for each, two threads
use both of two cores. Encoder, decoder and losses see one micro-batch (part) at a time. Between encoder and decoder the
quantiser sees the whole batch, because its codebooks learn from all frames together. Every part is computed by one
thread, and the gradients of the parts are added in order, so that the result is the same on any number of cores.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

Result = TypeVar("Result")


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use only the calling thread within the context, because sums of several threads differ in the last
    bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class MicroBatchThreads:
    """Threads for the micro-batches of a batch. Outside of `running`, the calling thread computes one after another."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run micro-batches on as many threads as torch uses, within the context; in each of them torch uses one."""
        threads = torch.get_num_threads()
        # The calling thread too uses one thread: a team of OpenMP threads would spin on the cores that the pool uses.
        with ThreadPoolExecutor(threads, "micro-batch", torch.set_num_threads, (1,)) as pool, one_thread():
            self._pool = pool
            try:
                yield
            finally:
                self._pool = None

    def map(self, work: Callable[..., Result], *micro_batches: Sequence[Tensor]) -> list[Result]:
        """Return the results of `work` for the micro-batches, in order."""
        return list(map(work, *micro_batches) if self._pool is None else self._pool.map(work, *micro_batches))


def add_gradients(parameters: Sequence[Tensor], gradients: Sequence[Sequence[Tensor]]) -> None:
    """Set the gradients of parameters to the sums of the parts' gradients.

    Args:
        parameters: the parameters; earlier gradients are replaced.
        gradients: for each part, one gradient for each parameter.
    """
    for parameter, summands in zip(parameters, zip(*gradients, strict=True), strict=True):
        total = summands[0]
        for gradient in summands[1:]:
            total = total + gradient
        parameter.grad = total


def as_leaf(values: Float[Tensor, "B D T"]) -> Float[Tensor, "B D T"]:
    """Return values detached from the graph that computed them, as a leaf that gets a gradient of its own."""
    return values.detach().requires_grad_()
