"""Steps whose shapes follow the sequences, for a CPU: a row attends to exactly what it remembers.

Sums in floating point depend on the shapes they are computed in, so a row of a batch has the same bits in any company
only if every shape follows from the row alone. Hence what is known beforehand is read for each task by itself, a row
attends to what it remembers, and matrices are multiplied by numbers of rows that are proven to leave the bits as they
are (`model.kernels.packed_linear`).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from model.decoding.sampling_batch import Drawings, draw_codes, largest_top_k
from model.decoding.sequences import UNKNOWN, Slot, Task, read_known
from model.lm.attention import Cache
from model.lm.language_model import LanguageModel

BLOCK = 64
"""Steps by which the cache grows. Room for more would stand between a head's keys and the next head's, and reading
around it takes the CPU twice as long as copying the cache now and then."""


class ExactSteps:
    """Sequences in slots, and a cache that has rows for each.

    Args:
        model: as `model.kernels.inference.for_decoding` gives it.
        tasks: all that will be decoded, for the sizes of the longest.
        slots: of the sequences that are decoded together.
    """

    def __init__(self, model: LanguageModel, tasks: Sequence[Task], slots: int) -> None:
        self.model = model
        self.rows = max(task.rows for task in tasks)
        """Of a slot."""
        self.longest = max(task.prefix_length + task.steps for task in tasks)
        known = max(task.prefix_length + task.start for task in tasks)
        source_length = max(task.source_length for task in tasks)
        self.cache = model.transformer.allocate(self.rows * slots, self._room(known), source_length)
        self.finite = torch.ones((), dtype=torch.bool)
        self.sequences: dict[int, Int[Tensor, "K S"]] = {}
        """By slot, as the next two."""
        self.hidden: dict[int, Float[Tensor, "W 1 D"]] = {}
        self.memories: list[Cache] = []
        """What the rows of the slots remember, in their order; neighbours that remember equally much together."""
        self.remembering: list[int] = []
        """The tasks whose memories these are."""

    def _room(self, length: int) -> int:
        """For how many steps there is room where `length` are needed."""
        return min(self.longest, length + BLOCK)

    def begin(self, place: int, task: Task) -> None:
        """Read what is known of a task into a slot."""
        self.sequences[place] = task.sequence.clone()
        self.hidden[place] = read_known(self.model, task, self.cache, place * self.rows)
        self.remembering = []

    def step(self, running: Sequence[Slot]) -> None:
        """Draw the next codes of every slot, and read them where more are to come."""
        drawn = self._drawn(running)
        for slot, codes in zip(running, drawn, strict=True):
            known = self.sequences[slot.place][:, slot.step]
            self.sequences[slot.place][:, slot.step] = torch.where(known == UNKNOWN, codes, known)
        if reading := [slot for slot in running if not slot.last]:
            self._read(reading)

    def finished(self, slot: Slot) -> Int[Tensor, "K S"]:
        """The sequence of a slot whose last step is drawn. Raises FloatingPointError where logits were not finite."""
        if not self.finite:
            raise FloatingPointError("expected finite logits, got NaN or infinity: the model's weights are broken")
        return self.sequences.pop(slot.place)

    def _drawn(self, running: Sequence[Slot]) -> Int[Tensor, "B K"]:
        """The codes that the slots' latest hidden states lead to."""
        tasks, first_rows, rows = [slot.task for slot in running], [], 0
        for task in tasks:
            first_rows.append(rows)
            rows += task.rows
        logits = self.model.logits(torch.cat([self.hidden[slot.place] for slot in running]))[:, :, 0]
        uniform = torch.stack([slot.task.uniform[slot.step] for slot in running])
        drawings = Drawings.of(tasks, first_rows, logits.device)
        drawn = draw_codes(logits, drawings, uniform, largest_top_k(tasks))
        self.finite &= drawn.finite
        return drawn.codes

    def _read(self, reading: Sequence[Slot]) -> None:
        """Read the codes that every slot has got."""
        longest = max(slot.task.prefix_length + slot.step for slot in reading)
        if longest == self.cache.layers[0].keys.shape[2]:
            self.memories, self.remembering = [], []  # or what they view would stay beside what it is copied to
            self.model.transformer.lengthen(self.cache, self._room(longest))
        if self.remembering != [slot.number for slot in reading]:
            self._remember(reading)
        codes = torch.stack([self.sequences[slot.place][:, slot.step] for slot in reading])
        rows = torch.tensor([slot.task.rows for slot in reading])
        inputs = self.model.embed(codes[:, :, None]).repeat_interleave(rows, 0)
        if self.model.config.sum or self.model.config.interpolate:
            added = [
                one.fused.added[:, slot.step : slot.step + 1].expand(one.rows, -1, -1)
                for slot in reading
                for one in slot.task.passes
                if one.fused.added is not None
            ]
            inputs = inputs + torch.cat(added)
        hidden = self.model.transformer.step(inputs, self.memories)
        for slot, part in zip(reading, hidden.split([slot.task.rows for slot in reading]), strict=True):
            self.hidden[slot.place] = part

    def _remember(self, reading: Sequence[Slot]) -> None:
        """Find the rows that remember equally much: to attend once for all of them is faster."""
        self.memories, self.remembering = [], [slot.number for slot in reading]
        beginning, end, alike = 0, 0, None
        for slot in reading:
            row = slot.place * self.rows
            for one in slot.task.passes:
                length = one.prefix_length + slot.step
                if (length, one.source_length) != alike or row != end:
                    beginning, alike = row, (length, one.source_length)
                    self.memories.append(self.cache)
                row = end = row + one.rows
                self.memories[-1] = self.cache.rows(beginning, end, one.source_length)
                self.memories[-1].length = length
