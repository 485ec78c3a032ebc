"""The recurrent layers of EnCodec's halves for inference (LSTM, Hochreiter and Schmidhuber 1997) on a CPU.

A step multiplies one row by a matrix of 16 MB, so its time is that of reading the matrix, and four rows take hardly
longer than one. So a sequence is run as several segments at once (multiple shooting: Bellen and Zennaro, "Parallel
algorithms for initial-value problems", 1989): each but the first begins some frames early from a state of zeros, by
when the layer has nearly always forgotten the difference. That is checked: where the state that a segment began from is
not the one that the segment before it ended with, up to rounding, the segments are run again from those, until all
agree. The result is that of running the sequence from end to end; only the time depends on how well layers forget.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.kernels.operators import multiply_packed, pack_matrix

ROWS = 4
"""Rows that are multiplied at once, where there are fewer sequences."""
WARM_UP_FRAMES = 48
"""Frames that a segment begins early. EnCodecs trained here forget a state in that time, up to rounding."""
NARROWEST = 512
"""Width from which on this is done: PyTorch's own layers, which cost less beside their products, run a narrower one, as
its matrix of 1 MB at a width of 256 stays near the processor."""
ROUNDING = 1e-6
"""By how much states may differ, beside their own size."""


@dataclass(frozen=True, eq=False)
class _LstmLayer:
    """One layer; its gates stand in the order input, forget, output, cell."""

    width: int
    inwards: Tensor
    """Packed, of inputs."""
    around: Tensor
    """Packed, of the layer's output a step before."""
    bias: Float[Tensor, " G"]


@dataclass(frozen=True, eq=False)
class _State:
    """The state of a layer, for each of R rows."""

    hidden: Float[Tensor, "R D"]
    cell: Float[Tensor, "R D"]

    def first(self, rows: int) -> "_State":
        return _State(self.hidden[:rows], self.cell[:rows])


@dataclass(frozen=True, eq=False)
class _Run:
    """What a layer gave at every step, and its state after the last."""

    outputs: Float[Tensor, "R T D"]
    last: _State


class Recurrence:
    """An LSTM with a residual connection: its input is added to its output.

    Args:
        warm_up: frames that a segment begins early.
        narrowest: width from which on a sequence is run as segments.
    """

    def __init__(self, lstm: nn.LSTM, warm_up: int = WARM_UP_FRAMES, narrowest: int = NARROWEST) -> None:
        self.lstm, self.warm_up = lstm, warm_up
        wide = lstm.hidden_size >= narrowest
        self.layers = [_packed(lstm, number) for number in range(lstm.num_layers)] if wide else []

    def __call__(self, items: Sequence[Float[Tensor, "T D"]]) -> list[Float[Tensor, "T D"]]:
        """Return the outputs for sequences of one length."""
        inputs = outputs = torch.stack(list(items))
        if not self.layers:
            outputs = self.lstm(inputs.transpose(0, 1))[0].transpose(0, 1)
        for layer in self.layers:
            outputs = _run_layer(layer, outputs, self.warm_up)
        return [item.contiguous() for item in (outputs + inputs).unbind()]


def _packed(lstm: nn.LSTM, number: int) -> _LstmLayer:
    names = [f"{name}_l{number}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    inwards, around, inner, outer = (getattr(lstm, name).detach() for name in names)
    order = [0, 1, 3, 2]
    inwards, around, bias = (
        each.unflatten(0, (4, -1))[order].flatten(0, 1) for each in (inwards, around, inner + outer)
    )
    return _LstmLayer(lstm.hidden_size, pack_matrix(inwards), pack_matrix(around), bias)


def _run_layer(layer: _LstmLayer, inputs: Float[Tensor, "B T D"], warm_up: int) -> Float[Tensor, "B T D"]:
    """Run a layer over sequences, in as many segments as fill the rows and are worth their warm-up."""
    batch, frames, _ = inputs.shape
    count = max(1, min(ROWS // batch, frames // (2 * warm_up)))
    length = math.ceil(frames / count)
    products = multiply_packed(inputs.flatten(0, 1), layer.inwards, layer.bias)
    steps = products.new_zeros(batch, count * length, products.shape[1])
    steps[:, :frames] = products.view(batch, frames, -1)
    segments = steps.unflatten(1, (count, length)).transpose(0, 1).flatten(0, 1)  # the first of each sequence first
    zeros = _State(*steps.new_zeros(2, batch, layer.width))
    initial = zeros
    if count > 1:
        early = segments[:-batch, -warm_up:]
        initial = _shifted(
            zeros, _run_segments(layer, early, _State(*steps.new_zeros(2, len(early), layer.width))).last
        )
    for _ in range(count):  # each time one more of the segments begins with the very state of the one before it
        run = _run_segments(layer, segments, initial)
        expected = _shifted(zeros, run.last.first(len(segments) - batch))
        if _agree(initial, expected):
            break
        initial = expected
    outputs: Tensor = run.outputs.unflatten(0, (count, batch))
    return outputs.transpose(0, 1).flatten(1, 2)[:, :frames]


def _shifted(zeros: _State, states: _State) -> _State:
    """Return the states that segments begin with: the first zeros, the others those of the ones before them."""
    return _State(torch.cat([zeros.hidden, states.hidden]), torch.cat([zeros.cell, states.cell]))


def _agree(state: _State, other: _State) -> bool:
    pairs = ((state.hidden, other.hidden), (state.cell, other.cell))
    return all(torch.allclose(a, b, rtol=ROUNDING, atol=ROUNDING) for a, b in pairs)


def _run_segments(layer: _LstmLayer, steps: Float[Tensor, "R T G"], initial: _State) -> _Run:
    """Run a layer's steps, given what the inputs add to its gates."""
    width, hidden, cell = layer.width, initial.hidden, initial.cell
    outputs = steps.new_empty(steps.shape[1], len(steps), width)
    for step, output in zip(steps.unbind(1), outputs, strict=True):
        gates = multiply_packed(hidden, layer.around, None).add_(step)
        input_gate, forget_gate, output_gate = gates[:, : 3 * width].sigmoid_().split(width, 1)
        cell = torch.addcmul(cell * forget_gate, input_gate, gates[:, 3 * width :].tanh_())
        hidden = torch.mul(output_gate, cell.tanh(), out=output)
    return _Run(outputs.transpose(0, 1), _State(hidden, cell))
