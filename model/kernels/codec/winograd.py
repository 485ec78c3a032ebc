"""Convolutions of two taps with a quarter fewer multiplications (Winograd's F(2, 2): arXiv:1509.09308, 4).

A convolution whose kernel is twice its stride, as where a codec changes its rate, is one of two taps over rows as long
as the stride: y[n] = A v[n] + B v[n + 1]. Two rows that follow each other take three products in place of four:

    y[n]     = A (v[n] - v[n + 1]) + (A + B) v[n + 1]
    y[n + 1] = (A + B) v[n + 1] - B (v[n + 1] - v[n + 2])

The differences and sums cost time as well, so this pays for wide rows alone. It rounds about 1.4 times as much.
"""

import torch
from jaxtyping import Float
from torch import Tensor

NARROWEST = 512
"""Numbers in a row v, and in a row y, from which on it pays: on Zen 4, 7 % at 512, 16 % at 1,280 and 35 % at 4,096."""


class TwoTaps:
    """Such a convolution.

    Args:
        weight: as that of `nn.Conv1d`, twice as long as its stride.
    """

    def __init__(self, weight: Float[Tensor, "D C k"], bias: Float[Tensor, "D"] | None) -> None:
        self.width = weight.shape[1] * weight.shape[2] // 2
        first, second = (tap.transpose(1, 2).flatten(1) for tap in weight.chunk(2, dim=2))
        pack = torch.ops.mkldnn._reorder_linear_weight
        self.first, self.second, self.both = pack(first), pack(second), pack(first + second)
        self.bias = bias

    def __call__(self, rows: Float[Tensor, "N C"]) -> Float[Tensor, "M D"]:
        """What it makes of rows that are padded already."""
        length = rows.numel() // self.width
        taps = rows.flatten()[: length * self.width].view(length, self.width)
        pairs = (length - 1) // 2
        even, odd, next_even = taps[0 : 2 * pairs : 2], taps[1 : 2 * pairs : 2], taps[2 : 2 * pairs + 1 : 2]
        middle = _product(odd.contiguous(), self.both, self.bias)
        found = middle.new_empty(length - 1, middle.shape[1])
        torch.add(_product(even - odd, self.first), middle, out=found[0 : 2 * pairs : 2])
        torch.sub(middle, _product(odd - next_even, self.second), out=found[1 : 2 * pairs : 2])
        if len(found) > 2 * pairs:
            found[-1:] = _product(taps[-2:-1], self.first, self.bias) + _product(taps[-1:], self.second)
        return found


def _product(rows: Tensor, packed: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, packed, bias, "none", [], "")
