"""What there is to decode: sequences with open places, the conditions that they are read with, where each one is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from model.lm.attention import KVCache
from model.lm.fuser import FusedConditions
from model.lm.language_model import LanguageModel

CROSS_MULTIPLE = 16
"""The length of what cross-attention reads is padded to a multiple of this."""
UNKNOWN = -1
"""A code that is to be sampled."""


class GenerationStoppedError(Exception):
    """The caller asked to stop."""


@dataclass(frozen=True)
class SamplingParams:
    """How a sequence's codes are sampled; `model.decoding.generation.GenerationRequest` says what each field means."""

    guidance: float
    guidance_text: float
    temperature: float
    top_k: int
    top_p: float


@dataclass(frozen=True, eq=False)
class CfgPass:
    """What one forward pass of guidance reads for a request: the conditions of one branch, or of all, a row each."""

    rows: int
    fused: FusedConditions

    @property
    def prefix_length(self) -> int:
        return 0 if self.fused.prefix is None else self.fused.prefix.shape[1]

    @property
    def cross_length(self) -> int:
        """Length of what cross-attention reads, padded."""
        return 0 if self.fused.cross is None else -(-self.fused.cross.shape[1] // CROSS_MULTIPLE) * CROSS_MULTIPLE


@dataclass(frozen=True, eq=False)
class Continuation:
    """What goes on from a finished sequence, in its slot: sequences that are no longer and whose conditions have the
    same lengths."""

    request: "Callable[[Int[Tensor, 'K S']], SequenceRequest]"
    """Makes the next sequence's request of the finished one."""
    start: int
    """Steps that the next sequences are given, at most."""
    steps: int
    """Steps that are sampled in all of them."""


@dataclass(frozen=True, eq=False)
class SequenceRequest:
    """A sequence whose open codes are to be generated."""

    passes: Sequence[CfgPass]
    """The rows of all passes in turn are the branches that guidance combines."""
    sequence: Int[Tensor, "K S"]
    """Its codes, `UNKNOWN` where they are to be sampled."""
    start: int
    """Steps that are read before the first code is sampled."""
    uniform: Float[Tensor, "S K"]
    """Random numbers in [0, 1) that the codes are sampled with."""
    sampling: SamplingParams
    new_frames: int
    """Frames that are generated, for its progress."""
    then: Continuation | None = None
    """What goes on from it; it is no result of its own then."""

    @property
    def steps(self) -> int:
        return self.sequence.shape[1]

    @property
    def rows(self) -> int:
        """Rows of all its passes."""
        return sum(cfg_pass.rows for cfg_pass in self.passes)

    @property
    def prefix_length(self) -> int:
        """Length of the longest prefix of a pass."""
        return max(cfg_pass.prefix_length for cfg_pass in self.passes)

    @property
    def prefilled(self) -> int:
        """Steps that are read at once, prefix included: the most of it and of what goes on from it."""
        return self.prefix_length + max(self.start, self.then.start if self.then else 0)

    @property
    def begins_with_one_step(self) -> bool:
        """Whether all its passes begin with a single step, without a prefix, so that it can be read like any later
        step."""
        return self.start == 1 and self.prefix_length == 0

    @property
    def steps_to_sample(self) -> int:
        """Steps that are sampled until it and what goes on from it are whole."""
        return self.steps - self.start + (self.then.steps if self.then else 0)

    @property
    def cross_length(self) -> int:
        """Length of the longest of what its passes read by cross-attention, padded."""
        return max(cfg_pass.cross_length for cfg_pass in self.passes)

    def frames_made(self, step: int) -> int:
        """Count the frames that this step makes: the request's new frames, spread evenly over its sampled steps."""
        frames, steps, done = self.new_frames, self.steps - self.start, step - self.start
        if done < 0:
            return 0
        return frames * (done + 1) // steps - frames * done // steps


@dataclass(eq=False)
class Slot:
    """A request that is being decoded."""

    request_index: int
    request: SequenceRequest
    index: int
    """Which of the slots this is."""
    step: int
    """The step that is to be sampled."""

    @property
    def last(self) -> bool:
        """Whether that is its last step."""
        return self.step + 1 == self.request.steps


@dataclass(frozen=True)
class Span:
    """Rows of a cache that belong to one pass, and how much of each is read."""

    row: int
    rows: int
    length: int
    """Steps that are cached."""
    cross_length: int
    """Condition vectors, padded."""


def view_segments(cache: KVCache, spans: Sequence[Span]) -> list[KVCache]:
    """View spans of a cache in their order; neighbouring rows of equal length make one view, for to attend once for all
    of them is faster."""
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
    """Write the keys and values of what a pass reads by cross-attention into the cache, and return the view of its
    rows, which begin at `row`."""
    view, fused = cache.rows(row, row + cfg_pass.rows, cfg_pass.cross_length), cfg_pass.fused
    if fused.cross is not None:
        model.transformer.cache_cross_kv(view, fused.cross, fused.cross_mask)
    return view


def prefill(
    model: LanguageModel, admitted: Sequence[tuple[SequenceRequest, int]], cache: KVCache
) -> list[Float[Tensor, "_ 1 D"]]:
    """Read the conditions and the known first steps of requests into the cache, each into rows from a row on; return
    the hidden states of the last known step of each.

    A pass that begins with several steps is read by itself, so that its numbers do not depend on what is decoded beside
    it. Those that begin with one take it together, as they will take the others.
    """
    hidden: list[list[Tensor]] = [[] for _ in admitted]
    single: list[tuple[int, int, Span, Tensor]] = []
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
                single.append((number, len(hidden[number]), span, inputs))
                hidden[number].append(inputs)
            else:
                hidden[number].append(model.transformer(inputs, cache=view)[:, -1:])
            row += cfg_pass.rows
    if single:
        segments = view_segments(cache, [span for _, _, span, _ in single])
        states = model.transformer.step(torch.cat([inputs for *_, inputs in single]), segments)
        split = states.split([span.rows for _, _, span, _ in single])
        for (number, place, _, _), own in zip(single, split, strict=True):
            hidden[number][place] = own
    return [torch.cat(own) for own in hidden]
