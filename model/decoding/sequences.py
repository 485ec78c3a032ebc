"""What there is to decode: sequences with open places, the conditions that they are read with, where each one is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from model.lm.attention import KVCache
from model.lm.fuser import FusedConditions
from model.lm.language_model import LanguageModel

CROSS_MULTIPLE = 32
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
    def steps_to_sample(self) -> int:
        """Steps that are sampled until it and what goes on from it are whole."""
        return self.steps - self.start + (self.then.steps if self.then else 0)

    @property
    def cross_length(self) -> int:
        """Length of the longest of what its passes read by cross-attention, padded."""
        return max(cfg_pass.cross_length for cfg_pass in self.passes)

    def frames_made(self, step: int) -> int:
        """Count the frames that this step makes: the request's new frames, spread evenly over its steps."""
        frames, steps, done = self.new_frames, self.steps - self.start, step - self.start
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


def prefill(model: LanguageModel, request: SequenceRequest, cache: KVCache, row: int) -> Float[Tensor, "W 1 D"]:
    """Read the conditions and the known first steps of a request into its rows of the cache, from `row` on.

    Each pass is read by itself, so that its numbers do not depend on what is decoded beside it. Returns the hidden
    states of the last known step.
    """
    known, hidden = request.sequence[None, :, : request.start].to(model.device), []
    for cfg_pass in request.passes:
        fused, view = cfg_pass.fused, cache.rows(row, row + cfg_pass.rows, cfg_pass.cross_length)
        inputs = model.embed(known).expand(cfg_pass.rows, -1, -1)
        if fused.added is not None:
            inputs = inputs + fused.added[:, : request.start]
        if fused.prefix is not None:
            inputs = torch.cat([fused.prefix.to(inputs.dtype), inputs], dim=1)
        if fused.cross is not None:
            model.transformer.cache_cross_kv(view, fused.cross, fused.cross_mask)
        hidden.append(model.transformer(inputs, cache=view)[:, -1:])
        row += cfg_pass.rows
    return torch.cat(hidden)
