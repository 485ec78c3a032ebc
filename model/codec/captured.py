"""Decoding as a captured graph, for CUDA: a clip of a length that comes often is one launch, not some two hundred.

What a network decodes of so many frames is the same kernels each time. They are captured once a shape, after a few
times in which libraries choose their algorithms and take their workspaces (torch.cuda.graph, CUDA C++ Programming
Guide, "CUDA Graphs"), and replayed from then on. A network that cannot be captured decodes kernel by kernel, as before.
"""

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

import torch
from jaxtyping import Float, Int
from torch import Tensor

WARM_UP = 3
"""Times that a shape is decoded as it is before it is captured."""
KEPT = 4
"""Shapes whose graphs are kept, those used last: a graph keeps its activations, a gigabyte of half a minute."""

log = logging.getLogger(__name__)

Decode = Callable[[Int[Tensor, "B K T"]], Float[Tensor, "B C N"]]


@dataclass(frozen=True, eq=False)
class _Captured:
    """A graph, and where it reads and writes."""

    replay: Callable[[], None]
    codes: Int[Tensor, "B K T"]
    sound: Float[Tensor, "B C N"]


class CapturedDecoding:
    """Does what `decode` does, by graphs for shapes that come often.

    Args:
        decode: looks at no value on the way, so that nothing waits for the device.
    """

    def __init__(self, decode: Decode) -> None:
        self.decode = decode
        self.taken: Counter[torch.Size] = Counter()
        self.graphs: OrderedDict[torch.Size, _Captured] = OrderedDict()
        self.can_capture = True
        self.stream = torch.cuda.Stream()
        self.lock = Lock()  # shards that are at work at once share the codec, and a graph has one place for its codes

    def __call__(self, codes: Int[Tensor, "B K T"]) -> Float[Tensor, "B C N"]:
        with self.lock:
            shape = codes.shape
            if shape not in self.graphs and self.can_capture and self.taken[shape] == WARM_UP:
                self._capture(codes)
            if shape in self.graphs:
                return self._replay(codes)
            self.taken[shape] += 1
            return self._beside(codes)

    def _beside(self, codes: Int[Tensor, "B K T"]) -> Float[Tensor, "B C N"]:
        """Decode on the stream that captures are made on."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            sound = self.decode(codes)
        torch.cuda.current_stream().wait_stream(self.stream)
        # Its memory belongs to that stream, which must not have it back while this one still reads.
        sound.record_stream(torch.cuda.current_stream())
        return sound

    def _capture(self, codes: Int[Tensor, "B K T"]) -> None:
        while len(self.graphs) >= KEPT:
            self.graphs.popitem(last=False)
        graph, held = torch.cuda.CUDAGraph(), codes.clone()
        try:
            # Threads that work on other shards must not be taken for part of it.
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                sound = self.decode(held)
        except RuntimeError as error:
            self.can_capture = False
            log.warning("this device captures no graph of the codec, which is decoded kernel by kernel: %s", error)
        else:
            self.graphs[codes.shape] = _Captured(graph.replay, held, sound)

    def _replay(self, codes: Int[Tensor, "B K T"]) -> Float[Tensor, "B C N"]:
        captured = self.graphs[codes.shape]
        self.graphs.move_to_end(codes.shape)
        captured.codes.copy_(codes)
        captured.replay()
        return captured.sound.clone()
