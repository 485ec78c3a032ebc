"""What the engine decodes: sequences with unknown codes, their conditions, and the slots that they are in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from model.lm.attention import KVCache
from model.lm.fuser import FusedConditions
from model.lm.language_model import LanguageModel

CROSS_MULTIPLE = 16
"""The conditions of cross-attention are padded to a multiple of this length."""
UNKNOWN = -1
"""Placeholder of a code that is still to be sampled."""


class GenerationStoppedError(Exception):
    """Raised when the caller asks to stop."""


@dataclass(frozen=True)
class SamplingParams:
    """How a sequence's codes are sampled; `model.decoding.generation.GenerationRequest` explains the fields."""

    guidance: float
    guidance_text: float
    temperature: float
    top_k: int
    top_p: float


@dataclass(frozen=True, eq=False)
class CfgPass:
    """The conditions that one forward pass reads for a request: those of one branch or of all branches, a row each."""

    rows: int
    fused: FusedConditions

    @property
    def prefix_length(self) -> int:
        return 0 if self.fused.prefix is None else self.fused.prefix.shape[1]

    @property
    def cross_length(self) -> int:
        """Padded length of what cross-attention reads."""
        return 0 if self.fused.cross is None else -(-self.fused.cross.shape[1] // CROSS_MULTIPLE) * CROSS_MULTIPLE


@dataclass(frozen=True, eq=False)
class Continuation:
    """The sequences that continue a finished sequence in its slot, such as the later windows of a long clip.

    None of them may be longer than the finished one, and their conditions must have the same lengths.
    """

    request: "Callable[[Int[Tensor, 'K S']], SequenceRequest]"
    """Makes the request of the next sequence from the finished sequence."""
    start: int
    """The largest `SequenceRequest.start` of the sequences that follow."""
    steps: int
    """Total number of steps that are sampled in the sequences that follow."""


@dataclass(frozen=True, eq=False)
class SequenceRequest:
    """A sequence whose unknown codes are to be generated."""

    passes: Sequence[CfgPass]
    """The forward passes; their rows, in order, are the branches that guidance combines."""
    sequence: Int[Tensor, "K S"]
    """The codes; `UNKNOWN` where they are to be sampled."""
    start: int
    """Number of steps that are read before the first code is sampled."""
    uniform: Float[Tensor, "S K"]
    """Random numbers in [0, 1) that the codes are sampled with."""
    sampling: SamplingParams
    new_frames: int
    """Number of frames that are generated, for reports of progress."""
    then: Continuation | None = None
    """The sequences that continue this one, if any; then this sequence is not yielded as a result."""

    @property
    def steps(self) -> int:
        return self.sequence.shape[1]

    @property
    def rows(self) -> int:
        """Number of rows of all passes."""
        return sum(cfg_pass.rows for cfg_pass in self.passes)

    @property
    def prefix_length(self) -> int:
        """Length of the longest prefix among the passes."""
        return max(cfg_pass.prefix_length for cfg_pass in self.passes)

    @property
    def prefilled(self) -> int:
        """The most steps that are read at once, prefix included, by this sequence and those that continue it."""
        return self.prefix_length + max(self.start, self.then.start if self.then else 0)

    @property
    def begins_with_one_step(self) -> bool:
        """Whether every pass begins with a single step and no prefix, so that this step can be read like any other."""
        return self.start == 1 and self.prefix_length == 0

    @property
    def steps_to_sample(self) -> int:
        """Number of steps that are sampled for this sequence and those that continue it."""
        return self.steps - self.start + (self.then.steps if self.then else 0)

    @property
    def cross_length(self) -> int:
        """The largest padded length of what cross-attention reads among the passes."""
        return max(cfg_pass.cross_length for cfg_pass in self.passes)

    def frames_made(self, step: int) -> int:
        """Return how many frames to report for this step: the request's new frames, spread evenly over its steps."""
        frames, steps, done = self.new_frames, self.steps - self.start, step - self.start
        if done < 0:
            return 0
        return frames * (done + 1) // steps - frames * done // steps


@dataclass(eq=False)
class Slot:
    """A slot with the request that is being decoded in it."""

    request_index: int
    """Index of the request among all requests."""
    request: SequenceRequest
    index: int
    """Index of the slot."""
    step: int
    """The step that is sampled next."""

    @property
    def last(self) -> bool:
        """Whether `step` is the last step of the sequence."""
        return self.step + 1 == self.request.steps


@dataclass(frozen=True)
class Span:
    """Rows of a cache that belong to one pass, and how much of each row is read."""

    row: int
    """The first row."""
    rows: int
    """Number of rows."""
    length: int
    """Number of cached steps."""
    cross_length: int
    """Padded number of condition vectors."""


def view_segments(cache: KVCache, spans: Sequence[Span]) -> list[KVCache]:
    """Return views of the spans of a cache, in their order. Adjacent spans of equal lengths share one view, because one
    call of attention for all of their rows is faster."""
    merged: list[Span] = []
    for span in spans:
        last = merged[-1] if merged else None
        if last is not None and span == replace(last, row=last.row + last.rows, rows=span.rows):
            merged[-1] = replace(last, rows=last.rows + span.rows)
        else:
            merged.append(span)
    segments = [cache.rows(span.row, span.row + span.rows, span.cross_length) for span in merged]
    for segment, span in zip(segments, merged, strict=True):
        segment.length = span.length
    return segments


def cache_conditions(model: LanguageModel, cfg_pass: CfgPass, row: int, cache: KVCache) -> KVCache:
    """Write the keys and values of the conditions of a pass's cross-attention into the cache, and return a view of the
    pass's rows, of which `row` is the first."""
    view, fused = cache.rows(row, row + cfg_pass.rows, cfg_pass.cross_length), cfg_pass.fused
    if fused.cross is not None:
        model.transformer.cache_cross_kv(view, fused.cross, fused.cross_mask)
    return view


def prefill(
    model: LanguageModel, admitted: Sequence[tuple[SequenceRequest, int]], cache: KVCache
) -> list[Float[Tensor, "_ 1 D"]]:
    """Read the conditions and the known first steps of requests into the cache.

    A pass that begins with several steps is computed alone, so that its numbers do not depend on the other requests.
    Passes that begin with one step are computed together, like later steps.

    Args:
        admitted: each request with its first row in the cache.

    Returns:
        For each request, the hidden states of its last known step.
    """
    hidden: list[list[Tensor]] = [[] for _ in admitted]
    single_steps: list[tuple[int, int, Span, Tensor]] = []
    for number, (request, row) in enumerate(admitted):
        known = request.sequence[None, :, : request.start].to(model.device)
        for cfg_pass in request.passes:
            fused, view = cfg_pass.fused, cache_conditions(model, cfg_pass, row, cache)
            inputs = model.embed(known).expand(cfg_pass.rows, -1, -1)
            if fused.added is not None:
                inputs = inputs + fused.added[:, : request.start]
            if fused.prefix is not None:
                inputs = torch.cat([fused.prefix.to(inputs.dtype), inputs], dim=1)
            if inputs.shape[1] == 1:
                span = Span(row, cfg_pass.rows, 0, cfg_pass.cross_length)
                single_steps.append((number, len(hidden[number]), span, inputs))
                hidden[number].append(inputs)
            else:
                hidden[number].append(model.transformer(inputs, cache=view)[:, -1:])
            row += cfg_pass.rows
    if single_steps:
        segments = view_segments(cache, [span for _, _, span, _ in single_steps])
        states = model.transformer.step(torch.cat([inputs for *_, inputs in single_steps]), segments)
        split = states.split([span.rows for _, _, span, _ in single_steps])
        for (number, pass_index, _, _), own in zip(single_steps, split, strict=True):
            hidden[number][pass_index] = own
    return [torch.cat(own) for own in hidden]
