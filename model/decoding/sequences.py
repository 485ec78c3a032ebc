"""What there is to decode: sequences with gaps, the conditions that they are read with, and where each is."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from model.lm.attention import Cache
from model.lm.language_model import Fused, LanguageModel

SOURCE_STEP = 32
"""The length of what cross-attention reads is filled up to a multiple of this."""
UNKNOWN = -1
"""A code that is to be drawn."""


class GenerationStoppedError(Exception):
    """The caller asked to stop."""


@dataclass(frozen=True)
class Drawing:
    """How a task's codes are drawn; `model.decoding.generation.GenerationRequest` says what each means."""

    guidance: float
    guidance_text: float
    temperature: float
    top_k: int
    top_p: float


@dataclass(frozen=True, eq=False)
class Pass:
    """What one pass of the network reads for a task: its conditions, in one row or more."""

    rows: int
    fused: Fused

    @property
    def prefix_length(self) -> int:
        return 0 if self.fused.prefix is None else self.fused.prefix.shape[1]

    @property
    def source_length(self) -> int:
        """Of what cross-attention reads, filled up."""
        return 0 if self.fused.source is None else -(-self.fused.source.shape[1] // SOURCE_STEP) * SOURCE_STEP


@dataclass(frozen=True, eq=False)
class Task:
    """A sequence to complete."""

    passes: Sequence[Pass]
    """The rows of all passes in turn are the answers that guidance takes."""
    sequence: Int[Tensor, "K S"]
    """Its codes, `UNKNOWN` where they are to be drawn."""
    start: int
    """Steps that are read before the first code is drawn."""
    uniform: Float[Tensor, "S K"]
    """Numbers in [0, 1) that the codes are drawn with."""
    drawing: Drawing
    new_frames: int
    """Frames that the task makes, for its progress."""

    @property
    def steps(self) -> int:
        return self.sequence.shape[1]

    @property
    def rows(self) -> int:
        """Of all its passes."""
        return sum(one.rows for one in self.passes)

    @property
    def prefix_length(self) -> int:
        """Of the longest prefix of a pass."""
        return max(one.prefix_length for one in self.passes)

    @property
    def source_length(self) -> int:
        """Of the longest of what its passes read by cross-attention, filled up."""
        return max(one.source_length for one in self.passes)

    def frames_made(self, step: int) -> int:
        """Frames that count as made by this step: the task's new frames, spread evenly over its steps."""
        frames, steps, done = self.new_frames, self.steps - self.start, step - self.start
        return frames * (done + 1) // steps - frames * done // steps


@dataclass(eq=False)
class Slot:
    """A task that is being decoded."""

    number: int
    """Which of the tasks."""
    task: Task
    place: int
    """Which of the slots."""
    step: int
    """The step that is to be drawn."""

    @property
    def last(self) -> bool:
        """Whether that is its last."""
        return self.step + 1 == self.task.steps


def read_known(model: LanguageModel, task: Task, cache: Cache, row: int) -> Float[Tensor, "W 1 D"]:
    """Read what is known of a task beforehand, its conditions and first steps, into its rows of the cache from `row`
    on; the hidden states of its last known step.

    Each pass is read by itself, so that its numbers do not depend on what is decoded beside it.
    """
    known, hidden = task.sequence[None, :, : task.start].to(model.device), []
    for one in task.passes:
        memory = cache.rows(row, row + one.rows, one.source_length)
        inputs = model.embed(known).expand(one.rows, -1, -1)
        if one.fused.added is not None:
            inputs = inputs + one.fused.added[:, : task.start]
        if one.fused.prefix is not None:
            inputs = torch.cat([one.fused.prefix.to(inputs.dtype), inputs], dim=1)
        if one.fused.source is not None:
            model.transformer.remember_source(memory, one.fused.source, one.fused.source_mask)
        hidden.append(model.transformer(inputs, cache=memory)[:, -1:])
        row += one.rows
    return torch.cat(hidden)
