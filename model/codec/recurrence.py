"""The recurrent layers of EnCodec's halves for inference (LSTM, Hochreiter and Schmidhuber 1997), with their matrices
packed for a CPU.

A step multiplies one row for each sequence by a matrix of 16 MB, so its time is that of reading the matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class _Layer:
    """One layer; its gates stand in the order input, forget, output, cell."""

    width: int
    inwards: Tensor
    """Packed, of inputs."""
    around: Tensor
    """Packed, of what the layer remembers."""
    bias: Float[Tensor, " G"]


class Recurrence:
    """An LSTM and, added to what it gives, what it was given."""

    def __init__(self, lstm: nn.LSTM) -> None:
        self.layers = [_packed(lstm, number) for number in range(lstm.num_layers)]

    def __call__(self, items: Sequence[Float[Tensor, "T D"]]) -> list[Float[Tensor, "T D"]]:
        """What it makes of sequences of one length."""
        given = found = torch.stack(list(items), dim=1)
        for layer in self.layers:
            found = _run(layer, found)
        return [item.contiguous() for item in (found + given).unbind(1)]


def _packed(lstm: nn.LSTM, number: int) -> _Layer:
    names = [f"{name}_l{number}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    inwards, around, inner, outer = (getattr(lstm, name).detach() for name in names)
    order = [0, 1, 3, 2]
    inwards, around, bias = (
        each.unflatten(0, (4, -1))[order].flatten(0, 1) for each in (inwards, around, inner + outer)
    )
    pack = torch.ops.mkldnn._reorder_linear_weight
    return _Layer(lstm.hidden_size, pack(inwards), pack(around), bias)


def _run(layer: _Layer, inputs: Float[Tensor, "T B D"]) -> Float[Tensor, "T B D"]:
    width, multiply = layer.width, torch.ops.mkldnn._linear_pointwise
    steps = multiply(inputs.flatten(0, 1), layer.inwards, layer.bias, "none", [], "").view(*inputs.shape[:2], -1)
    found = inputs.new_empty(*inputs.shape[:2], width)
    hidden = inputs.new_zeros(inputs.shape[1], width)
    cell = torch.zeros_like(hidden)
    for step, room in zip(steps, found, strict=True):
        gates = multiply(hidden, layer.around, None, "none", [], "").add_(step)
        taken, kept, shown = gates[:, : 3 * width].sigmoid_().split(width, 1)
        cell = torch.addcmul(cell * kept, taken, gates[:, 3 * width :].tanh_())
        hidden = torch.mul(shown, cell.tanh(), out=room)
    return found
