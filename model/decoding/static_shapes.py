"""Decoding in shapes that are the same from the first step to the last, for CUDA: each step can be captured as a graph.

The position of each sequence, its sampling parameters and its codes are tensors on the device, which a step reads and
writes in place. No step reads a value on the host. The host knows how many steps each sequence takes, so it waits for
the device only to fetch a finished sequence. Slots that are empty or finished keep computing in their own rows, and
their results are ignored.

The fused attention kernels go through a row's keys in the same order for any number of rows, and masked keys have no
effect, so steps are batch-invariant here too.

A graph is one launch instead of several hundred, each of which takes the host longer than its kernel takes the device
(CUDA C++ Programming Guide, "CUDA Graphs"; torch.cuda.graph).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from model.decoding.sampling import SamplingBatch, largest_top_k, sample_tokens
from model.decoding.sequences import UNKNOWN, SequenceRequest, Slot, cache_conditions, prefill
from model.lm.attention import KVCache
from model.lm.config import CachePrecision
from model.lm.language_model import LanguageModel

BUCKET = 256
"""The length of the cache that is read is rounded up to a multiple of this many steps; each multiple has its own
graph."""
WARM_UP = 3
"""Steps of each length that run without a graph before it is captured, so that libraries allocate their workspaces."""


@dataclass(frozen=True, eq=False)
class DecodingState:
    """The state of all slots on the device: B slots, and R rows, which are those of one slot after another."""

    sequence: Int[Tensor, "B K S"]
    """Codes; `UNKNOWN` where they are to be sampled."""
    step: Int[Tensor, "B"]
    """The step of each slot that is sampled next."""
    prefix: Int[Tensor, "R"]
    """Length of each row's prefix."""
    uniform: Float[Tensor, "B S K"]
    """Random numbers in [0, 1) to sample with."""
    added: Float[Tensor, "R S D"] | None
    """Conditions that are added to the steps; None if the model has none."""
    hidden: Float[Tensor, "R 1 D"]
    """Hidden states of the latest step."""
    sampling: SamplingBatch
    finite: Bool[Tensor, ""]
    """Whether all logits so far were finite."""


class StaticShapeDecoder:
    """Decodes sequences in slots, each with its own rows, and a cache with room for the longest sequence.

    Args:
        model: a model that `model.kernels.packed_linear.prepare_for_inference` returned.
        requests: all requests that will be decoded; the longest determines the sizes.
        slots: how many sequences are decoded together.
        launch: wraps the function that takes a step, whose argument is the length of the cache that is read
            (`CudaGraphRunner` captures and replays it); None calls the function directly.
        precision: precision of cached keys and values.
    """

    def __init__(
        self,
        model: LanguageModel,
        requests: Sequence[SequenceRequest],
        slots: int,
        launch: Callable[[Callable[[int], None]], Callable[[int], None]] | None = None,
        precision: CachePrecision = "float32",
    ) -> None:
        self.model, device = model, model.device
        self.rows = max(request.rows for request in requests)
        """Number of rows of a slot."""
        room = round_up_to_bucket(max(request.prefix_length + request.steps for request in requests))
        cross_length = max(request.cross_length for request in requests)
        steps = max(request.steps for request in requests)
        self.cache = model.transformer.allocate(slots * self.rows, room, cross_length, precision=precision)
        if self.cache.cross_mask is not None:
            # An unused row must have at least one key, or its attention would give NaN.
            self.cache.cross_mask[..., 0] = True
        config, added, rows = model.config, None, slots * self.rows
        if config.sum or config.interpolate:
            added = torch.zeros((rows, steps, config.width), dtype=model.dtype, device=device)
        self.state = DecodingState(
            torch.full((slots, config.codebooks, steps), UNKNOWN, device=device),
            torch.zeros(slots, dtype=torch.long, device=device),
            torch.zeros(rows, dtype=torch.long, device=device),
            torch.zeros((slots, steps, config.codebooks), dtype=torch.float64, device=device),
            added,
            torch.zeros((rows, 1, config.width), dtype=model.dtype, device=device),
            SamplingBatch.of([requests[0]] * slots, [index * self.rows for index in range(slots)], device),
            torch.ones((), dtype=torch.bool, device=device),
        )
        self.largest = largest_top_k(requests)
        self.launch = self._advance if launch is None else launch(self._advance)

    def prefill(self, admitted: Mapping[int, SequenceRequest]) -> dict[int, int]:
        """Read the conditions and known steps of requests into slots; `admitted` has them by slot index. Return the
        step that is next in each of these slots.

        The single known step of a request that begins with one is read by `step`. Read here together with those of
        other requests, it would be multiplied in shapes that depend on how many these are, and so might its bits.
        """
        first_steps = {}
        for slot_index, request in admitted.items():
            row = slot_index * self.rows
            if request.begins_with_one_step:
                for cfg_pass in request.passes:
                    cache_conditions(self.model, cfg_pass, row, self.cache)
                    row += cfg_pass.rows
                # Nothing is sampled from these zeros, because the codes of the first step are known.
                hidden, first_steps[slot_index] = torch.zeros_like(self.state.hidden[: request.rows]), 0
            else:
                (hidden,), first_steps[slot_index] = prefill(self.model, [(request, row)], self.cache), request.start
            self._begin(slot_index, request, hidden, first_steps[slot_index])
        return first_steps

    def _begin(self, slot_index: int, request: SequenceRequest, hidden: Float[Tensor, "W 1 D"], step: int) -> None:
        """Write the state of a slot at the beginning of a request."""
        state, first = self.state, slot_index * self.rows
        state.hidden[first : first + request.rows] = hidden
        state.sequence[slot_index, :, : request.steps] = request.sequence.to(state.sequence.device)
        state.step[slot_index] = step
        state.uniform[slot_index, : request.steps] = request.uniform.to(state.uniform.device)
        sampling = SamplingBatch.of([request], [first], self.model.device)
        for field in fields(SamplingBatch):
            getattr(state.sampling, field.name)[slot_index] = getattr(sampling, field.name)[0]
        for cfg_pass in request.passes:
            rows = slice(first, first + cfg_pass.rows)
            state.prefix[rows] = cfg_pass.prefix_length
            if state.added is not None and cfg_pass.fused.added is not None:
                state.added[rows, : request.steps] = cfg_pass.fused.added[:, : request.steps]
            first += cfg_pass.rows

    def step(self, running: Sequence[Slot]) -> None:
        """Sample the next codes of every slot, and feed them to the model."""
        if self.cache.read_in_place:  # each row reads only its own steps, so one graph serves all lengths
            self.launch(self.cache.layers[0].keys.length)
            return
        self.launch(round_up_to_bucket(max(slot.request.prefix_length + slot.step for slot in running) + 1))

    def take_sequence(self, slot: Slot) -> Int[Tensor, "K S"]:
        """Return the sequence of a slot whose last step is sampled, copied to the CPU."""
        return self.state.sequence[slot.index, :, : slot.request.steps].to("cpu", copy=True)

    @property
    def finite(self) -> Bool[Tensor, ""]:
        """Whether all logits so far were finite."""
        return self.state.finite

    def _advance(self, length: int) -> None:
        with _batch_invariant_kernels(self.model.device):
            advance(self.model, self.cache, self.state, length, self.largest)


def advance(model: LanguageModel, cache: KVCache, state: DecodingState, length: int, largest: int | None) -> None:
    """Sample the next codes of every sequence and feed them to the model, updating `cache` and `state` in place.

    Args:
        length: number of steps of the cache that are read, which must cover every running sequence.
        largest: passed to `model.decoding.sampling.next_code_probabilities`.
    """
    slots, codebooks, steps = state.sequence.shape
    rows = len(state.hidden) // slots
    step_indexes = state.step[:, None, None].expand(-1, codebooks, 1)
    uniform = state.uniform.gather(1, step_indexes.transpose(1, 2))[:, 0]
    sampled = sample_tokens(model.logits(state.hidden)[:, :, 0], state.sampling, uniform, largest)
    state.finite.logical_and_(sampled.finite)
    known = state.sequence.gather(2, step_indexes)[..., 0]
    codes = torch.where(known == UNKNOWN, sampled.codes, known)
    state.sequence.scatter_(2, step_indexes, codes[..., None])

    inputs = model.embed(codes[..., None]).repeat_interleave(rows, 0)
    step = state.step.repeat_interleave(rows)
    if state.added is not None:
        inputs = inputs + state.added.gather(1, step[:, None, None].expand(-1, 1, inputs.shape[-1]))
    # Rows of finished sequences must stay within the cache.
    positions = (state.prefix + step).clamp(max=cache.layers[0].keys.length - 1)
    state.hidden.copy_(model.transformer.step_at(inputs, cache, positions, length))
    state.step.add_(1).clamp_(max=steps - 1)


def round_up_to_bucket(length: int) -> int:
    """Return the number of steps that a cache is allocated or read for where `length` are needed."""
    return -(-length // BUCKET) * BUCKET


def _batch_invariant_kernels(device: torch.device) -> AbstractContextManager[None]:
    """Return a context that allows only attention kernels that accept a mask and are batch-invariant."""
    return sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]) if device.type == "cuda" else nullcontext()


class CudaGraphRunner:
    """Captures a step as a graph, once for each length of the cache that it reads, and replays it.

    The warm-up steps before a capture are real decoding steps, so that none are wasted. They run on a side stream, as
    capturing requires. All graphs share one memory pool, because no graph leaves results in it.
    """

    def __init__(self, step: Callable[[int], None]) -> None:
        self.step = step
        self.warm_up_steps: Counter[int] = Counter()
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self.pool, self.stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()

    def __call__(self, length: int) -> None:
        """Take a step. Raises RuntimeError if it cannot be captured."""
        if length not in self.graphs and self.warm_up_steps[length] < WARM_UP:
            self._warm_up(length)
            return
        if length not in self.graphs:
            self._capture(length)
        self.graphs[length].replay()

    def _warm_up(self, length: int) -> None:
        self.warm_up_steps[length] += 1
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            self.step(length)
        torch.cuda.current_stream().wait_stream(self.stream)

    def _capture(self, length: int) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            # Only this thread is captured: other threads may use the device for other shards.
            with torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"):
                self.step(length)
        except RuntimeError as error:
            raise RuntimeError(
                "expected a step of decoding that this device can capture as a graph, got the error above: decode "
                "without graphs, more slowly, by --set settings.cuda_graphs=false"
            ) from error
        self.graphs[length] = graph
