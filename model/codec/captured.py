"""Decoding as a captured graph, for CUDA: a clip of a frequent length is one launch instead of about two hundred.

For codes of one shape, a network launches the same kernels each time. After a few calls, in which libraries choose
algorithms and allocate workspaces, they are captured as a graph (torch.cuda.graph, CUDA C++ Programming Guide, "CUDA
Graphs"), which is replayed from then on. A network that cannot be captured decodes kernel by kernel.
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
"""Number of times that a shape is decoded without a graph before it is captured."""
KEPT = 4
"""Number of graphs that are kept, those used last. A graph holds its activations: a gigabyte for half a minute."""

log = logging.getLogger(__name__)

Decode = Callable[[Int[Tensor, "B K T"]], Float[Tensor, "B C N"]]


@dataclass(frozen=True, eq=False)
class _Captured:
    """A graph, with the tensors that it reads and writes."""

    replay: Callable[[], None]
    codes: Int[Tensor, "B K T"]
    sound: Float[Tensor, "B C N"]


class CapturedDecoding:
    """Decodes like `decode`, by graphs for frequent shapes.

    Args:
        decode: decodes codes without reading a value on the host, so that nothing waits for the device.
    """

    def __init__(self, decode: Decode) -> None:
        self.decode = decode
        self.uncaptured_calls: Counter[torch.Size] = Counter()
        self.graphs: OrderedDict[torch.Size, _Captured] = OrderedDict()
        self.can_capture = True
        self.stream = torch.cuda.Stream()
        self.lock = Lock()  # threads for different shards share the codec, and a graph has one tensor for its codes

    def __call__(self, codes: Int[Tensor, "B K T"]) -> Float[Tensor, "B C N"]:
        with self.lock:
            shape = codes.shape
            if shape not in self.graphs and self.can_capture and self.uncaptured_calls[shape] == WARM_UP:
                self._capture(codes)
            if shape in self.graphs:
                return self._replay(codes)
            self.uncaptured_calls[shape] += 1
            return self._decode_uncaptured(codes)

    def _decode_uncaptured(self, codes: Int[Tensor, "B K T"]) -> Float[Tensor, "B C N"]:
        """Decode without a graph, on the stream that captures use."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            sound = self.decode(codes)
        torch.cuda.current_stream().wait_stream(self.stream)
        # The memory of the sound belongs to that stream, which must not reuse it while the current stream reads it.
        sound.record_stream(torch.cuda.current_stream())
        return sound

    def _capture(self, codes: Int[Tensor, "B K T"]) -> None:
        while len(self.graphs) >= KEPT:
            self.graphs.popitem(last=False)
        graph, static_codes = torch.cuda.CUDAGraph(), codes.clone()
        try:
            # Only this thread is captured: other threads may use the device for other shards.
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                sound = self.decode(static_codes)
        except RuntimeError as error:
            self.can_capture = False
            log.warning("the codec's decoding cannot be captured as a graph and runs kernel by kernel: %s", error)
        else:
            self.graphs[codes.shape] = _Captured(graph.replay, static_codes, sound)

    def _replay(self, codes: Int[Tensor, "B K T"]) -> Float[Tensor, "B C N"]:
        captured = self.graphs[codes.shape]
        self.graphs.move_to_end(codes.shape)
        captured.codes.copy_(codes)
        captured.replay()
        return captured.sound.clone()
