"""The decoding engine: batches of sequences, step by step, with their conditions' keys and values cached.

Sums in floating point depend on the shapes they are computed in, so a row of a batch has the same bits in any company
only if every shape follows from the row alone. Hence conditions and what is known beforehand are read for each task by
itself, decoding always runs on the same number of rows, filled up with empty ones, and tasks share a batch only if
their sequences begin alike, so that step for step they attend to equally many positions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from model.attention import Cache
from model.guidance import guide
from model.language_model import Fused, LanguageModel
from model.sampling import draw, next_code_probabilities

ROWS = 8
"""Tasks of a batch. Another number gives other rounding, hence (rarely) other tokens."""
SOURCE_STEP = 32
"""The length of what cross-attention reads is filled up to a multiple of this."""
UNKNOWN = -1
"""A code that is to be drawn."""


class GenerationStoppedError(Exception):
    """The caller asked to stop."""


@dataclass(frozen=True)
class Drawing:
    """How a task's codes are drawn; `model.generation.GenerationRequest` says what each means."""

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
    def beginning(self) -> tuple[int, ...]:
        """Rows, and lengths of the prefix and of what cross-attention reads, filled up."""
        prefix, source = self.fused.prefix, self.fused.source
        filled = 0 if source is None else -(-source.shape[1] // SOURCE_STEP) * SOURCE_STEP
        return (self.rows, 0 if prefix is None else prefix.shape[1], filled)


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
    def beginning(self) -> tuple[int, tuple[tuple[int, ...], ...]]:
        """What tasks of one batch have in common."""
        return (self.start, tuple(one.beginning for one in self.passes))

    def frames_made(self, step: int) -> int:
        """Frames that count as made by this step: the task's new frames, spread evenly over its steps."""
        if step >= self.steps:
            return 0
        frames, steps, done = self.new_frames, self.steps - self.start, step - self.start
        return frames * (done + 1) // steps - frames * done // steps


def complete(
    model: LanguageModel,
    tasks: Sequence[Task],
    stop: Callable[[], bool] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Int[Tensor, "K _"]]:
    """The whole sequence of each task, on the CPU.

    Raises GenerationStoppedError when `stop` says so, FloatingPointError where logits are not finite.
    """
    alike: dict[tuple[int, tuple[tuple[int, ...], ...]], list[int]] = {}
    for number in sorted(range(len(tasks)), key=lambda number: tasks[number].steps):
        alike.setdefault(tasks[number].beginning, []).append(number)
    done: dict[int, Tensor] = {}
    for group in alike.values():
        for first in range(0, len(group), ROWS):
            batch = group[first : first + ROWS]
            found = _decode(model, [tasks[number] for number in batch], stop, progress)
            done |= {number: row[:, : tasks[number].steps] for number, row in zip(batch, found, strict=True)}
    return [done[number] for number in range(len(tasks))]


class _Lane:
    """One pass over all tasks of a batch: its cache, and the hidden states of the latest step."""

    def __init__(self, model: LanguageModel, tasks: Sequence[Task], number: int, steps: int) -> None:
        passes = [task.passes[number] for task in tasks]
        self.model, (self.ways, prefix, source) = model, passes[0].beginning
        rows, width = self.ways * ROWS, model.config.width
        empty = torch.zeros((rows, 1, width), device=model.device, dtype=model.dtype)
        self.cache = model.transformer.allocate(rows, prefix + steps, source)
        if self.cache.cross_mask is not None:
            # Rows left empty must have something to look at: attention over nothing is not a number.
            self.cache.cross_mask[self.ways * len(tasks) :, ..., :1] = True
        self.added = None if passes[0].fused.added is None else empty.repeat(1, steps, 1)
        self.hidden = empty
        for row, (task, one) in enumerate(zip(tasks, passes, strict=True)):
            mine = slice(self.ways * row, self.ways * (row + 1))
            if self.added is not None and one.fused.added is not None:
                self.added[mine, : task.steps] = one.fused.added
            self.hidden[mine] = self._begin(task, one, self.cache.rows(mine.start, mine.stop))
        self.cache.length = prefix + tasks[0].start

    def _begin(self, task: Task, one: Pass, cache: Cache) -> Float[Tensor, "W 1 D"]:
        """Read what is known of one task, its conditions and first steps, into its rows of the cache."""
        inputs = self.model.embed(task.sequence[None, :, : task.start].to(self.model.device)).expand(one.rows, -1, -1)
        if one.fused.added is not None:
            inputs = inputs + one.fused.added[:, : task.start]
        if one.fused.prefix is not None:
            inputs = torch.cat([one.fused.prefix.to(inputs.dtype), inputs], dim=1)
        if one.fused.source is not None:
            self.model.transformer.remember_source(cache, one.fused.source, one.fused.source_mask)
        return self.model.transformer(inputs, cache=cache)[:, -1:]

    def logits(self) -> Float[Tensor, "B W K V"]:
        """What each row says of the next step."""
        return self.model.logits(self.hidden)[:, :, 0].float().unflatten(0, (ROWS, self.ways))

    def advance(self, codes: Int[Tensor, "B K"], step: int) -> None:
        """Read the codes of a step."""
        inputs = self.model.embed(codes[:, :, None]).repeat_interleave(self.ways, 0)
        inputs = inputs if self.added is None else inputs + self.added[:, step : step + 1]
        self.hidden = self.model.transformer(inputs, cache=self.cache)


def _decode(
    model: LanguageModel,
    tasks: Sequence[Task],
    stop: Callable[[], bool] | None,
    progress: Callable[[int], None] | None,
) -> Int[Tensor, "B K S"]:
    """The whole sequences of tasks that begin alike, decoded together."""
    device, codebooks = model.device, model.config.codebooks
    start, steps = tasks[0].start, max(task.steps for task in tasks)
    sequences = torch.full((ROWS, codebooks, steps), model.special, device=device)
    uniform = torch.zeros((ROWS, steps, codebooks), dtype=torch.float64)
    settings = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0]] * ROWS, dtype=torch.float64)
    for row, task in enumerate(tasks):
        how = task.drawing
        sequences[row, :, : task.steps] = task.sequence.to(device)
        uniform[row, : task.steps] = task.uniform
        settings[row] = torch.tensor([how.guidance, how.guidance_text, how.temperature, how.top_k, how.top_p])
    uniform, top_k = uniform.to(device), settings[:, 3].long().to(device)
    guidance, guidance_text, temperature, _, top_p = settings.float().to(device).unbind(1)
    lanes = [_Lane(model, tasks, number, steps) for number in range(len(tasks[0].passes))]
    finite = torch.ones((), dtype=torch.bool, device=device)
    for step in range(start, steps):
        if stop is not None and stop():
            raise GenerationStoppedError(f"stopped at step {step} of {steps}")
        logits = guide(torch.cat([lane.logits() for lane in lanes], dim=1), guidance, guidance_text)
        finite &= logits.isfinite().all()
        drawn = draw(next_code_probabilities(logits, temperature, top_k, top_p), uniform[:, step])
        known = sequences[:, :, step]
        sequences[:, :, step] = torch.where(known == UNKNOWN, drawn, known)
        if progress is not None and (made := sum(task.frames_made(step) for task in tasks)):
            progress(made)
        if step + 1 < steps:
            for lane in lanes:
                lane.advance(sequences[:, :, step], step)
    if not finite:
        raise FloatingPointError("expected finite logits, got NaN or infinity: the model's weights are broken")
    return sequences[: len(tasks)].cpu()
