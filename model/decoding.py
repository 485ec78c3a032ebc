"""The decoding engine: sequences side by side, step by step, with their conditions' keys and values cached.

There are so many slots. A sequence that is finished makes room for the next, so sequences of any length, prompt and
conditions go together, each where it is; one that stands alone pays for itself alone.

Sums in floating point depend on the shapes they are computed in, so a row of a batch has the same bits in any company
only if every shape follows from the row alone. Hence conditions and what is known beforehand are read for each task by
itself, a row attends to exactly what it remembers, and matrices are multiplied by numbers of rows that are proven to
leave the bits as they are (`model.matrices`).
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from model.attention import Cache
from model.configuration import Precision
from model.guidance import guide
from model.language_model import Fused, LanguageModel
from model.packing import for_decoding
from model.sampling import draw, next_code_probabilities

SLOTS = 8
"""Tasks that are decoded together."""
SOURCE_STEP = 32
"""The length of what cross-attention reads is filled up to a multiple of this."""
BLOCK = 64
"""Steps by which the cache grows. Room for more would stand between a head's keys and the next head's, and reading
around it takes the CPU twice as long as copying the cache now and then."""
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
    precision: Precision = "float32",
) -> list[Int[Tensor, "K _"]]:
    """The whole sequence of each task, on the CPU.

    Raises GenerationStoppedError when `stop` says so, FloatingPointError where logits are not finite, ValueError for a
    precision that the device has no kernel for.
    """
    if not tasks:
        return []
    engine = _Engine(for_decoding(model, precision), tasks)
    while engine.slots:
        if stop is not None and stop():
            first = engine.slots[0]
            raise GenerationStoppedError(f"stopped at step {first.step} of {first.task.steps}")
        made = engine.step()
        if progress is not None and made:
            progress(made)
    return [engine.done[number] for number in range(len(tasks))]


@dataclass(eq=False)
class _Slot:
    """A task that is being decoded."""

    number: int
    """Which of the tasks."""
    task: Task
    sequence: Int[Tensor, "K S"]
    hidden: Float[Tensor, "W 1 D"]
    """Hidden states of its latest step, a row an answer."""
    step: int
    """The step that is to be drawn."""
    place: int
    """Its first row in the cache."""


class _Engine:
    """The slots, and a cache that has rows for each."""

    def __init__(self, model: LanguageModel, tasks: Sequence[Task]) -> None:
        self.model, self.tasks = model, tasks
        # The longest first, so that no slot is left to run by itself for long.
        self.waiting = deque(sorted(range(len(tasks)), key=lambda number: tasks[number].start - tasks[number].steps))
        self.places = max(task.rows for task in tasks)
        passes = [one for task in tasks for one in task.passes]
        self.longest = max(one.prefix_length + task.steps for task in tasks for one in task.passes)
        self.cache = model.transformer.allocate(
            self.places * min(SLOTS, len(tasks)),
            self._room(max(one.prefix_length + task.start for task in tasks for one in task.passes)),
            max(one.source_length for one in passes),
        )
        self.finite = torch.ones((), dtype=torch.bool, device=model.device)
        self.done: dict[int, Tensor] = {}
        self.slots: list[_Slot] = []
        self.passes: list[Cache] = []
        """What the rows of the slots remember, in their order; neighbours that remember equally much together."""
        self._admit(range(0, self.places * min(SLOTS, len(tasks)), self.places))

    def _room(self, length: int) -> int:
        """For how many steps there is room where `length` are needed."""
        return min(self.longest, length + BLOCK) if self.model.device.type == "cpu" else self.longest

    def step(self) -> int:
        """Draw the next codes of every slot and read them; how many frames that made."""
        drawn = self._drawn()
        made = 0
        for slot, codes in zip(self.slots, drawn, strict=True):
            known = slot.sequence[:, slot.step]
            slot.sequence[:, slot.step] = torch.where(known == UNKNOWN, codes, known)
            made += slot.task.frames_made(slot.step)
        over = [slot for slot in self.slots if slot.step + 1 == slot.task.steps]
        if over:
            if not self.finite:
                raise FloatingPointError("expected finite logits, got NaN or infinity: the model's weights are broken")
            self.done |= {slot.number: slot.sequence.cpu() for slot in over}
            self.slots = [slot for slot in self.slots if slot.step + 1 < slot.task.steps]
            self._gather_caches()
        if self.slots:
            self._read()
        if over:
            self._admit([slot.place for slot in over])
        return made

    def _drawn(self) -> Int[Tensor, "B K"]:
        """The codes that the slots' latest hidden states lead to."""
        logits = self.model.logits(torch.cat([slot.hidden for slot in self.slots]))[:, :, 0].float()
        settings = torch.tensor(
            [
                [how.guidance, how.guidance_text, how.temperature, how.top_k, how.top_p]
                for how in (slot.task.drawing for slot in self.slots)
            ],
            dtype=torch.float64,
        )
        top_k = settings[:, 3].long().to(self.model.device)
        guidance, guidance_text, temperature, _, top_p = settings.float().to(self.model.device).unbind(1)
        answers = logits.split([slot.task.rows for slot in self.slots])
        guided = torch.cat(
            [
                guide(answer[None], guidance[row : row + 1], guidance_text[row : row + 1])
                for row, answer in enumerate(answers)
            ]
        )
        self.finite &= guided.isfinite().all()
        uniform = torch.stack([slot.task.uniform[slot.step] for slot in self.slots]).to(self.model.device)
        return draw(next_code_probabilities(guided, temperature, top_k, top_p, self._largest()), uniform)

    def _largest(self) -> int | None:
        """The largest `top_k` that counts; None where entries have to be sorted."""
        drawings = [slot.task.drawing for slot in self.slots]
        if any(how.top_p > 0 and how.temperature > 0 for how in drawings):
            return None
        return max((how.top_k for how in drawings if how.temperature > 0), default=1)

    def _read(self) -> None:
        """Read the codes that every slot has got."""
        longest = max(cache.length for cache in self.passes)
        if longest == self.cache.layers[0].keys.shape[2]:
            self.model.transformer.lengthen(self.cache, self._room(longest))
            self._gather_caches()
        codes = torch.stack([slot.sequence[:, slot.step] for slot in self.slots])
        rows = torch.tensor([slot.task.rows for slot in self.slots], device=codes.device)
        inputs = self.model.embed(codes[:, :, None]).repeat_interleave(rows, 0)
        if self.model.config.sum or self.model.config.interpolate:
            added = [
                one.fused.added[:, slot.step : slot.step + 1].expand(one.rows, -1, -1)
                for slot in self.slots
                for one in slot.task.passes
                if one.fused.added is not None
            ]
            inputs = inputs + torch.cat(added)
        hidden = self.model.transformer.step(inputs, self.passes)
        for slot, part in zip(self.slots, hidden.split([slot.task.rows for slot in self.slots]), strict=True):
            slot.hidden, slot.step = part, slot.step + 1

    def _admit(self, places: Sequence[int]) -> None:
        """Begin tasks that wait in places that are free."""
        for place in places:
            if self.waiting:
                number = self.waiting.popleft()
                task = self.tasks[number]
                sequence, first, hidden = task.sequence.to(self.model.device, copy=True), place, []
                for one in task.passes:
                    cache = self.cache.rows(first, first + one.rows, one.source_length)
                    hidden.append(self._begin(task, one, cache))
                    first += one.rows
                self.slots.append(_Slot(number, task, sequence, torch.cat(hidden), task.start, place))
        self.slots.sort(key=lambda slot: slot.place)
        self._gather_caches()

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

    def _gather_caches(self) -> None:
        """Find the rows that remember equally much: to attend once for all of them is faster."""
        self.passes = []
        beginning, end, alike = 0, 0, None
        for slot in self.slots:
            row = slot.place
            for one in slot.task.passes:
                length = one.prefix_length + slot.step
                if (length, one.source_length) != alike or row != end:
                    beginning, alike = row, (length, one.source_length)
                    self.passes.append(self.cache)
                row = end = row + one.rows
                self.passes[-1] = self.cache.rows(beginning, end, one.source_length)
                self.passes[-1].length = length
