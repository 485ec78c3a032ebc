"""Decoding in shapes that follow the sequences, for a CPU: a row attends to exactly what its cache holds.

The rounding of floating-point sums depends on the shapes they are computed in. So decoding is batch-invariant (the bits
of a row do not depend on the other rows) only if every shape depends on the row alone. Hence the prompt of each request
is read by itself, a row attends only to its own cached steps, and matrices are multiplied with numbers of rows that
were tested to give the same bits (`model.kernels.packed_linear`).
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from model.decoding.sampling import SamplingBatch, largest_top_k, sample_tokens
from model.decoding.sequences import UNKNOWN, SequenceRequest, Slot, Span, prefill, view_segments
from model.lm.attention import KVCache
from model.lm.config import CachePrecision
from model.lm.language_model import LanguageModel

BLOCK = 64
"""Steps by which the cache grows. More unused room would lie between the keys of one head and those of the next.
Reading around it takes the CPU twice as long as copying the cache now and then."""


class DynamicShapeDecoder:
    """Decodes sequences in slots, with a cache that has rows for each slot.

    Args:
        model: a model that `model.kernels.packed_linear.prepare_for_inference` returned.
        requests: all requests that will be decoded; the longest determines the sizes.
        slots: how many sequences are decoded together.
        precision: precision of cached keys and values.
    """

    def __init__(
        self,
        model: LanguageModel,
        requests: Sequence[SequenceRequest],
        slots: int,
        precision: CachePrecision = "float32",
    ) -> None:
        self.model = model
        self.rows = max(request.rows for request in requests)
        """Rows of a slot."""
        self.longest = max(request.prefix_length + request.steps for request in requests)
        known = max(request.prefilled for request in requests)
        cross_length = max(request.cross_length for request in requests)
        rows, room = self.rows * slots, self._room(known)
        self.cache = model.transformer.allocate(rows, room, cross_length, precision=precision)
        self.finite = torch.ones((), dtype=torch.bool)
        """Whether all logits so far were finite."""
        self.sequences: dict[int, Int[Tensor, "K S"]] = {}
        """The sequence in each slot, by slot index."""
        self.hidden: dict[int, Float[Tensor, "W 1 D"]] = {}
        """Hidden states of the latest step, by slot index."""
        self.segments: list[KVCache] = []
        """Views of the cache in the order of the slots; neighbouring rows of equal length share a view."""
        self.segment_requests: list[int] = []
        """Indexes of the requests that `segments` was made for."""

    def _room(self, length: int) -> int:
        """Return the number of steps to allocate where `length` are needed."""
        return min(self.longest, length + BLOCK)

    def prefill(self, admitted: Mapping[int, SequenceRequest]) -> dict[int, int]:
        """Read the conditions and known steps of requests into slots; `admitted` has them by slot index. Return the
        step that `step` samples next in each of these slots."""
        admitted_rows = [(request, slot_index * self.rows) for slot_index, request in admitted.items()]
        for slot_index, hidden in zip(admitted, prefill(self.model, admitted_rows, self.cache), strict=True):
            self.sequences[slot_index] = admitted[slot_index].sequence.clone()
            self.hidden[slot_index] = hidden
        self.segment_requests = []
        return {slot_index: request.start for slot_index, request in admitted.items()}

    def step(self, running: Sequence[Slot]) -> None:
        """Sample the next codes of every slot, and feed them to the model where the sequence is not finished."""
        for slot, codes in zip(running, self._sample(running), strict=True):
            known = self.sequences[slot.index][:, slot.step]
            self.sequences[slot.index][:, slot.step] = torch.where(known == UNKNOWN, codes, known)
        if unfinished := [slot for slot in running if not slot.last]:
            self._read(unfinished)

    def take_sequence(self, slot: Slot) -> Int[Tensor, "K S"]:
        """Remove and return the sequence of a slot whose last step is sampled."""
        return self.sequences.pop(slot.index)

    def _sample(self, running: Sequence[Slot]) -> Int[Tensor, "B K"]:
        """Sample codes from the latest hidden states of the slots."""
        requests, first_rows, rows = [slot.request for slot in running], [], 0
        for request in requests:
            first_rows.append(rows)
            rows += request.rows
        logits = self.model.logits(torch.cat([self.hidden[slot.index] for slot in running]))[:, :, 0]
        uniform = torch.stack([slot.request.uniform[slot.step] for slot in running])
        batch = SamplingBatch.of(requests, first_rows, logits.device)
        sampled = sample_tokens(logits, batch, uniform, largest_top_k(requests))
        self.finite &= sampled.finite
        return sampled.codes

    def _read(self, unfinished: Sequence[Slot]) -> None:
        """Feed the latest codes of every slot to the model, and keep the hidden states."""
        longest = max(slot.request.prefix_length + slot.step for slot in unfinished)
        if longest == self.cache.layers[0].keys.length:
            self.segments, self.segment_requests = [], []  # these views would keep the old cache in memory
            self.model.transformer.lengthen(self.cache, self._room(longest))
        if self.segment_requests != [slot.request_index for slot in unfinished]:
            self._find_segments(unfinished)
        codes = torch.stack([self.sequences[slot.index][:, slot.step] for slot in unfinished])
        rows = torch.tensor([slot.request.rows for slot in unfinished])
        inputs = self.model.embed(codes[:, :, None]).repeat_interleave(rows, 0)
        if self.model.config.sum or self.model.config.interpolate:
            added = [
                cfg_pass.fused.added[:, slot.step : slot.step + 1].expand(cfg_pass.rows, -1, -1)
                for slot in unfinished
                for cfg_pass in slot.request.passes
                if cfg_pass.fused.added is not None
            ]
            inputs = inputs + torch.cat(added)
        hidden = self.model.transformer.step(inputs, self.segments)
        for slot, own_rows in zip(unfinished, hidden.split([slot.request.rows for slot in unfinished]), strict=True):
            self.hidden[slot.index] = own_rows

    def _find_segments(self, unfinished: Sequence[Slot]) -> None:
        spans: list[Span] = []
        for slot in unfinished:
            row = slot.index * self.rows
            for cfg_pass in slot.request.passes:
                length = cfg_pass.prefix_length + slot.step
                spans.append(Span(row, cfg_pass.rows, length, cfg_pass.cross_length))
                row += cfg_pass.rows
        self.segments = view_segments(self.cache, spans)
        self.segment_requests = [slot.request_index for slot in unfinished]
