"""A step's batch in parts, each worked on by a thread of its own.

Of a small network's convolutions a second thread makes none faster: half a batch each takes both cores of two. Encoder,
decoder and losses see one part at a time; the quantiser, whose codebooks learn from all frames together, sees the whole
batch between them. Every part is computed by one thread and the parts' gradients are added in their order, so that the
result is the same on any number of cores.
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
    """Have torch compute in the calling thread alone inside: what several threads add up differs in the last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class PartThreads:
    """Threads for the parts; outside of `begun` the calling thread works on one after another."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Have as many threads as torch computes with inside, each of which computes alone."""
        threads = torch.get_num_threads()
        # The calling thread too: a team of OpenMP's threads spins between its pieces, on the parts' cores.
        with ThreadPoolExecutor(threads, "part", torch.set_num_threads, (1,)) as pool, one_thread():
            self._pool = pool
            try:
                yield
            finally:
                self._pool = None

    def map(self, work: Callable[..., Result], *parts: Sequence[Tensor]) -> list[Result]:
        """Return what `work` makes of each part, in their order."""
        return list(map(work, *parts) if self._pool is None else self._pool.map(work, *parts))


def add_gradients(parameters: Sequence[Tensor], gradients: Sequence[Sequence[Tensor]]) -> None:
    """Give parameters the sum of the parts' gradients.

    Args:
        parameters: which have none yet.
        gradients: of each part, one for each parameter.
    """
    for parameter, of_parts in zip(parameters, zip(*gradients, strict=True), strict=True):
        total = of_parts[0]
        for gradient in of_parts[1:]:
            total = total + gradient
        parameter.grad = total


def as_leaf(values: Float[Tensor, "B D T"]) -> Float[Tensor, "B D T"]:
    """Cut values off from what they were computed of, so that their own gradient is told."""
    return values.detach().requires_grad_()
