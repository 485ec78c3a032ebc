"""A step of decoding as one CUDA graph: a single launch in place of some hundreds, each of which takes the host longer
than its kernel takes the device (CUDA C++ Programming Guide, "CUDA Graphs"; torch.cuda.graph).

A graph replays the very kernels on the very addresses that it was captured with, so it is for steps that read and write
tensors in place and look at no value (`model.decoding.static_shapes`).
"""

from collections import Counter
from collections.abc import Callable

import torch

WARM_UP = 3
"""Steps of a length that are taken as they are before it is captured: libraries allocate their workspaces in them."""


class CapturedSteps:
    """A step, captured once for each length of memory that it reads.

    The steps before a capture are steps like any other, on a stream beside the usual one, as a capture wants it; so
    warming up costs none. All graphs share their memory, for none leaves anything in it.
    """

    def __init__(self, step: Callable[[int], None]) -> None:
        self.step = step
        self.taken: Counter[int] = Counter()
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self.pool, self.stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()

    def __call__(self, length: int) -> None:
        """Take a step. Raises RuntimeError where it cannot be captured."""
        if length not in self.graphs and self.taken[length] < WARM_UP:
            self._warm_up(length)
            return
        if length not in self.graphs:
            self._capture(length)
        self.graphs[length].replay()

    def _warm_up(self, length: int) -> None:
        self.taken[length] += 1
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            self.step(length)
        torch.cuda.current_stream().wait_stream(self.stream)

    def _capture(self, length: int) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            # Threads that work on other shards must not be taken for part of it.
            with torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"):
                self.step(length)
        except RuntimeError as error:
            raise RuntimeError(
                "expected a step of decoding that this device can capture as a graph, got the error above: decode "
                "without graphs, more slowly, by --set settings.cuda_graphs=false"
            ) from error
        self.graphs[length] = graph
