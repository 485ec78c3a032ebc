"""Steps of the same shapes from the first to the last, for CUDA: each can be captured once and replayed as one graph.

Where a sequence is, what it was asked for and what it has got are tensors on the device, which a step reads and writes
in place. No step looks at a value, so the host never waits for the device but to fetch a sequence that is finished: it
knows by itself how many steps each takes. Slots without a sequence, or with one that is finished, go on by themselves
in their own rows; nobody reads them.

The fused kernels of attention go through a row's keys in turn whatever the number of rows, and leave masked ones
without effect, so that a row's bits are the same in any company there too.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from model.decoding.sampling_batch import Drawings, draw_codes, largest_top_k
from model.decoding.sequences import UNKNOWN, Slot, Task, read_known
from model.lm.attention import Cache
from model.lm.language_model import LanguageModel

BUCKET = 256
"""What is read of the memory is filled up to a multiple of so many steps; each multiple is a graph of its own."""


@dataclass(frozen=True, eq=False)
class State:
    """What the device knows of the sequences; rows are those of all slots in turn."""

    sequence: Int[Tensor, "B K S"]
    """Codes, `UNKNOWN` where they are to be drawn."""
    step: Int[Tensor, "B"]
    """The step that is to be drawn."""
    prefix: Int[Tensor, "R"]
    """Length of each row's prefix."""
    uniform: Float[Tensor, "B S K"]
    """Numbers in [0, 1) to draw with."""
    added: Float[Tensor, "R S D"] | None
    """Conditions that are added to the steps."""
    hidden: Float[Tensor, "R 1 D"]
    """Hidden states of the latest step."""
    drawings: Drawings
    finite: Bool[Tensor, ""]
    """Whether all logits so far were numbers."""


class FixedSteps:
    """Sequences in slots, each with rows of its own, and a cache with room for the longest.

    Args:
        model: as `model.kernels.inference.for_decoding` gives it.
        tasks: all that will be decoded, for the sizes of the longest.
        slots: of the sequences that are decoded together.
        launch: what makes of the step, a function of the length of memory that is read, one that is called in its
            place; None calls it as it is.
    """

    def __init__(
        self,
        model: LanguageModel,
        tasks: Sequence[Task],
        slots: int,
        launch: Callable[[Callable[[int], None]], Callable[[int], None]] | None = None,
    ) -> None:
        self.model, device = model, model.device
        self.rows = max(task.rows for task in tasks)
        """Of a slot."""
        room = filled_up(max(task.prefix_length + task.steps for task in tasks))
        source_length, steps = max(task.source_length for task in tasks), max(task.steps for task in tasks)
        self.cache = model.transformer.allocate(slots * self.rows, room, source_length)
        if self.cache.cross_mask is not None:
            # A row that nobody reads must have something to attend to, or what is no number would come of it.
            self.cache.cross_mask[..., 0] = True
        config, added, rows = model.config, None, slots * self.rows
        if config.sum or config.interpolate:
            added = torch.zeros((rows, steps, config.width), dtype=model.dtype, device=device)
        self.state = State(
            torch.full((slots, config.codebooks, steps), UNKNOWN, device=device),
            torch.zeros(slots, dtype=torch.long, device=device),
            torch.zeros(rows, dtype=torch.long, device=device),
            torch.zeros((slots, steps, config.codebooks), dtype=torch.float64, device=device),
            added,
            torch.zeros((rows, 1, config.width), dtype=model.dtype, device=device),
            Drawings.of([tasks[0]] * slots, [place * self.rows for place in range(slots)], device),
            torch.ones((), dtype=torch.bool, device=device),
        )
        self.largest = largest_top_k(tasks)
        self.launch = self._advance if launch is None else launch(self._advance)

    def begin(self, place: int, task: Task) -> None:
        """Read what is known of a task into a slot."""
        state, first = self.state, place * self.rows
        state.hidden[first : first + task.rows] = read_known(self.model, task, self.cache, first)
        state.sequence[place, :, : task.steps] = task.sequence.to(state.sequence.device)
        state.step[place] = task.start
        state.uniform[place, : task.steps] = task.uniform.to(state.uniform.device)
        drawings = Drawings.of([task], [first], self.model.device)
        for field in fields(Drawings):
            getattr(state.drawings, field.name)[place] = getattr(drawings, field.name)[0]
        for one in task.passes:
            rows = slice(first, first + one.rows)
            state.prefix[rows] = one.prefix_length
            if state.added is not None and one.fused.added is not None:
                state.added[rows, : task.steps] = one.fused.added[:, : task.steps]
            first += one.rows

    def step(self, running: Sequence[Slot]) -> None:
        """Draw the next codes of every slot, and read them."""
        self.launch(filled_up(max(slot.task.prefix_length + slot.step for slot in running) + 1))

    def finished(self, slot: Slot) -> Int[Tensor, "K S"]:
        """The sequence of a slot whose last step is drawn. Raises FloatingPointError where logits were not finite."""
        if not self.state.finite:
            raise FloatingPointError("expected finite logits, got NaN or infinity: the model's weights are broken")
        return self.state.sequence[slot.place, :, : slot.task.steps].to("cpu", copy=True)

    def _advance(self, length: int) -> None:
        with _kernels(self.model.device):
            advance(self.model, self.cache, self.state, length, self.largest)


def advance(model: LanguageModel, cache: Cache, state: State, length: int, largest: int | None) -> None:
    """Draw the next codes of every sequence and read them, all in place.

    Args:
        length: of the memory that is read; the sequences that matter remember fewer steps.
        largest: that of `model.decoding.sampling.next_code_probabilities`.
    """
    slots, codebooks, steps = state.sequence.shape
    rows = len(state.hidden) // slots
    here = state.step[:, None, None].expand(-1, codebooks, 1)
    uniform = state.uniform.gather(1, here.transpose(1, 2))[:, 0]
    drawn = draw_codes(model.logits(state.hidden)[:, :, 0], state.drawings, uniform, largest)
    state.finite.logical_and_(drawn.finite)
    known = state.sequence.gather(2, here)[..., 0]
    codes = torch.where(known == UNKNOWN, drawn.codes, known)
    state.sequence.scatter_(2, here, codes[..., None])

    inputs = model.embed(codes[..., None]).repeat_interleave(rows, 0)
    step = state.step.repeat_interleave(rows)
    if state.added is not None:
        inputs = inputs + state.added.gather(1, step[:, None, None].expand(-1, 1, inputs.shape[-1]))
    # Of sequences that are finished, so that they stay within what is theirs.
    at = (state.prefix + step).clamp(max=cache.layers[0].keys.shape[2] - 1)
    state.hidden.copy_(model.transformer.step_at(inputs, cache, at, length))
    state.step.add_(1).clamp_(max=steps - 1)


def filled_up(length: int) -> int:
    """The room of a memory of so many steps."""
    return -(-length // BUCKET) * BUCKET


def _kernels(device: torch.device) -> AbstractContextManager[None]:
    """Those of attention that take a mask and give a row the same bits in any company."""
    return sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]) if device.type == "cuda" else nullcontext()
