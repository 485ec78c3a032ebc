"""The recurrent layers of EnCodec's halves for inference (LSTM, Hochreiter and Schmidhuber 1997) on a CPU.

A step multiplies one row by a matrix of 16 MB, so its time is that of reading the matrix, and four rows take hardly
longer than one. So a sequence is run as several stretches at once (multiple shooting: Bellen and Zennaro, "Parallel
algorithms for initial-value problems", 1989): each but the first begins some frames early from nothing, by when what
the layer would remember is nearly always forgotten. Whether it is, is looked at: where the state that a stretch began
from is not the one that the stretch before it ended with, up to rounding, the stretches are run again from those, until
all agree. The answer is that of running the sequence from end to end; only the time depends on how well layers forget.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

ROWS = 4
"""Rows that are multiplied at once, where there are fewer sequences."""
RUN_UP = 48
"""Frames that a stretch begins early. EnCodecs trained here forget a state in that time, up to rounding."""
NARROWEST = 512
"""Width from which on this is done: PyTorch's own layers, which cost less beside their products, run a narrower one, as
its matrix of 1 MB at a width of 256 stays near the processor."""
ROUNDING = 1e-6
"""By how much states may differ, beside their own size."""


@dataclass(frozen=True, eq=False)
class _Layer:
    """One layer; its gates stand in the order input, forget, output, cell."""

    width: int
    inwards: Tensor
    """Packed, of inputs."""
    around: Tensor
    """Packed, of what the layer gave a step before."""
    bias: Float[Tensor, " G"]


@dataclass(frozen=True, eq=False)
class _State:
    """What a layer remembers of each of R rows."""

    hidden: Float[Tensor, "R D"]
    cell: Float[Tensor, "R D"]

    def first(self, rows: int) -> "_State":
        return _State(self.hidden[:rows], self.cell[:rows])


@dataclass(frozen=True, eq=False)
class _Run:
    """What a layer gave at every step, and its state after the last."""

    found: Float[Tensor, "R T D"]
    last: _State


class Recurrence:
    """An LSTM and, added to what it gives, what it was given.

    Args:
        run_up: frames that a stretch begins early.
        narrowest: width from which on a sequence is run as stretches.
    """

    def __init__(self, lstm: nn.LSTM, run_up: int = RUN_UP, narrowest: int = NARROWEST) -> None:
        self.lstm, self.run_up = lstm, run_up
        wide = lstm.hidden_size >= narrowest
        self.layers = [_packed(lstm, number) for number in range(lstm.num_layers)] if wide else []

    def __call__(self, items: Sequence[Float[Tensor, "T D"]]) -> list[Float[Tensor, "T D"]]:
        """What it makes of sequences of one length."""
        given = found = torch.stack(list(items))
        if not self.layers:
            found = self.lstm(given.transpose(0, 1))[0].transpose(0, 1)
        for layer in self.layers:
            found = _through(layer, found, self.run_up)
        return [item.contiguous() for item in (found + given).unbind()]


def _packed(lstm: nn.LSTM, number: int) -> _Layer:
    names = [f"{name}_l{number}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    inwards, around, inner, outer = (getattr(lstm, name).detach() for name in names)
    order = [0, 1, 3, 2]
    inwards, around, bias = (
        each.unflatten(0, (4, -1))[order].flatten(0, 1) for each in (inwards, around, inner + outer)
    )
    pack = torch.ops.mkldnn._reorder_linear_weight
    return _Layer(lstm.hidden_size, pack(inwards), pack(around), bias)


def _through(layer: _Layer, inputs: Float[Tensor, "B T D"], run_up: int) -> Float[Tensor, "B T D"]:
    """What a layer makes of sequences, in as many stretches as fill the rows and are worth their run-up."""
    batch, frames, _ = inputs.shape
    count = max(1, min(ROWS // batch, frames // (2 * run_up)))
    length = math.ceil(frames / count)
    products = torch.ops.mkldnn._linear_pointwise(inputs.flatten(0, 1), layer.inwards, layer.bias, "none", [], "")
    steps = products.new_zeros(batch, count * length, products.shape[1])
    steps[:, :frames] = products.view(batch, frames, -1)
    stretches = steps.unflatten(1, (count, length)).transpose(0, 1).flatten(0, 1)  # the first of each sequence first
    nothing = _State(*steps.new_zeros(2, batch, layer.width))
    begun = nothing
    if count > 1:
        early = stretches[:-batch, -run_up:]
        begun = _shifted(nothing, _run(layer, early, _State(*steps.new_zeros(2, len(early), layer.width))).last)
    for _ in range(count):  # each time one more of the stretches begins with the very state of the one before it
        run = _run(layer, stretches, begun)
        right = _shifted(nothing, run.last.first(len(stretches) - batch))
        if _agree(begun, right):
            break
        begun = right
    return run.found.unflatten(0, (count, batch)).transpose(0, 1).flatten(1, 2)[:, :frames]


def _shifted(nothing: _State, states: _State) -> _State:
    """States with which stretches begin: the first with nothing, the others with those of the ones before them."""
    return _State(torch.cat([nothing.hidden, states.hidden]), torch.cat([nothing.cell, states.cell]))


def _agree(one: _State, other: _State) -> bool:
    pairs = ((one.hidden, other.hidden), (one.cell, other.cell))
    return all(torch.allclose(a, b, rtol=ROUNDING, atol=ROUNDING) for a, b in pairs)


def _run(layer: _Layer, steps: Float[Tensor, "R T G"], begun: _State) -> _Run:
    """A layer's steps, given what the inputs add to its gates."""
    width, hidden, cell = layer.width, begun.hidden, begun.cell
    found = steps.new_empty(steps.shape[1], len(steps), width)
    for step, room in zip(steps.unbind(1), found, strict=True):
        gates = torch.ops.mkldnn._linear_pointwise(hidden, layer.around, None, "none", [], "").add_(step)
        taken, kept, shown = gates[:, : 3 * width].sigmoid_().split(width, 1)
        cell = torch.addcmul(cell * kept, taken, gates[:, 3 * width :].tanh_())
        hidden = torch.mul(shown, cell.tanh(), out=room)
    return _Run(found.transpose(0, 1), _State(hidden, cell))
