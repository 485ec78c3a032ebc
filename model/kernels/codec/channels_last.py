"""A codec's convolutions as a CPU runs them fastest: over sound that lies moment after moment.

PyTorch's own layers keep each channel's samples together, and write a padded copy before every convolution. Here the
channels of a moment lie together ("channels last"), for which oneDNN has kernels that copy nothing, and what comes
before a convolution writes into a buffer that has room for the padding. Nothing is approximated, but sums are added up
in other orders.

A layer takes and gives rows [N, C], one for each moment. For inference in float32 on a CPU that has oneDNN.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from model.kernels.codec.chunked_layers import Layer, Sight, in_turn, sight_of
from model.kernels.codec.winograd import NARROWEST, TwoTaps

LANES = 16
"""Numbers that oneDNN's convolutions make at once, wanted or not."""
USUAL_ROWS = 4096
"""Rows that weights are laid out for; others are as right."""

PaddingMode = Literal["constant", "reflect", "replicate"]
PADDING_MODES = get_args(PaddingMode)
Activation = Callable[[Float[Tensor, "N C"], Float[Tensor, "N C"]], None]
"""Writes what it makes of the first rows into the second."""


def elu_into(rows: Float[Tensor, "N C"], room: Float[Tensor, "N C"]) -> None:
    """The exponential linear unit (arXiv:1511.07289)."""
    torch.ops.aten.elu.out(rows, out=room)


def snake_into(alpha: Float[Tensor, "C"]) -> Activation:
    """Snake, x + sin²(αx) / α (arXiv:2006.08195), of each channel's α, as DAC computes it."""
    inverse = (alpha + 1e-9).reciprocal()

    def into(rows: Tensor, room: Tensor) -> None:
        torch.mul(rows, alpha, out=room)
        torch.addcmul(rows, room.sin_().square_(), inverse, out=room)

    return into


@dataclass(frozen=True)
class Padding:
    """Rows that are put around a convolution's input."""

    before: int = 0
    after: int = 0
    fill: bool = False
    """Whether more are put after it until the stride leaves none over."""
    mode: PaddingMode = "constant"


class Convolution:
    """An activation, if there is one, and a convolution of it.

    Args:
        weight: as that of `nn.Conv1d`, one group.
        activation: of what is convolved, before the padding, which none of the kinds here would change.
    """

    def __init__(
        self,
        weight: Float[Tensor, "D C k"],
        bias: Float[Tensor, "D"] | None,
        stride: int = 1,
        dilation: int = 1,
        padding: Padding = Padding(),
        activation: Activation | None = None,
    ) -> None:
        out_channels, self.channels, kernel = weight.shape
        self.bias, self.stride, self.dilation = bias, stride, dilation
        self.padding, self.activation = padding, activation
        self.span = (kernel - 1) * dilation + 1
        self.shorter: FewOutputs | TwoTaps | None = None
        """A way with fewer multiplications, where there is one."""
        if kernel == 2 * stride and dilation == 1 and min(stride * self.channels, out_channels) >= NARROWEST:
            self.shorter = TwoTaps(weight, bias)
        elif stride == 1 < kernel and out_channels * kernel <= LANES < self.channels:
            self.shorter = FewOutputs(weight, bias, dilation)
        else:
            usual = [1, self.channels, 1, USUAL_ROWS + self.span]
            self.weight = torch.ops.mkldnn._reorder_convolution_weight(
                weight[:, :, None].contiguous(memory_format=torch.channels_last), *self._steps(), 1, usual
            )
        self.sight = Sight(
            before=Fraction(padding.before),
            after=Fraction(self.span - 1 - padding.before),
            rate=Fraction(1, stride),
            step=stride,
            width=max(Fraction(self.channels), Fraction(out_channels, stride)),
        )

    def __call__(self, rows: Float[Tensor, "N C"]) -> Float[Tensor, "M D"]:
        length = rows.shape[0]
        before, after = self.padding.before, self.padding.after + (-length % self.stride if self.padding.fill else 0)
        padded = self.activation is not None or before or after
        rows = self._padded(rows, before, after) if padded else rows.contiguous()
        if self.shorter is not None:
            return self.shorter(rows)
        image = rows.as_strided((1, self.channels, 1, len(rows)), (rows.numel(), 1, rows.numel(), self.channels))
        made = torch.ops.mkldnn._convolution_pointwise(image, self.weight, self.bias, *self._steps(), 1, "none", [], "")
        return made[0, :, 0].t().contiguous()

    def _steps(self) -> tuple[list[int], list[int], list[int]]:
        """The kernel's own padding, stride and dilation."""
        return [0, 0], [1, self.stride], [1, self.dilation]

    def _padded(self, rows: Tensor, before: int, after: int) -> Tensor:
        length = len(rows)
        room = rows.new_empty(before + length + after, self.channels)
        middle = room[before : before + length]
        if self.activation is None:
            middle.copy_(rows)
        else:
            self.activation(rows, middle)
        _fill_edges(room, before, after, self.padding.mode)
        return room


class FewOutputs:
    """A convolution of many channels into one or two, as at a decoder's end.

    oneDNN's kernels make 16 numbers of each tap there. One product gives instead what a row adds to all that see it.
    """

    def __init__(self, weight: Float[Tensor, "D C k"], bias: Float[Tensor, "D"] | None, dilation: int) -> None:
        self.wanted, _, self.kernel = weight.shape
        self.bias, self.dilation = bias, dilation
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.permute(2, 0, 1).flatten(0, 1).contiguous())

    def __call__(self, rows: Float[Tensor, "N C"]) -> Float[Tensor, "M D"]:
        """What it makes of rows that are padded already."""
        parts = torch.ops.mkldnn._linear_pointwise(rows, self.weight, None, "none", [], "")
        width = self.kernel * self.wanted
        length = len(rows) - (self.kernel - 1) * self.dilation
        # Of tap k, what the row `k * dilation` later adds.
        taps = parts.as_strided((length, self.kernel, self.wanted), (width, self.dilation * width + self.wanted, 1))
        found = taps.sum(1)
        return found if self.bias is None else found.add_(self.bias)


def _fill_edges(room: Tensor, before: int, after: int, mode: PaddingMode) -> None:
    """Write what stands around the middle of the room, from the middle."""
    length = len(room) - before - after
    middle, head, tail = room[before : before + length], room[:before], room[before + length :]
    if mode == "constant":
        head.zero_()
        tail.zero_()
    elif mode == "replicate":
        head.copy_(middle[:1].expand_as(head))
        tail.copy_(middle[-1:].expand_as(tail))
    elif length > max(before, after):
        head.copy_(middle[1 : before + 1].flip(0))
        tail.copy_(middle[length - 1 - after : length - 1].flip(0))
    else:
        # As transformers does where there is too little to reflect: with silence after it, of which none is kept.
        longer = F.pad(middle.t()[None], (0, max(before, after) + 1 - length))
        room.copy_(F.pad(longer, (before, after), "reflect")[0].t()[: len(room)])


class TransposedConvolution:
    """An activation, if there is one, and a transposed convolution of it: a convolution that gives all rows of a stride
    at once.

    Args:
        weight: as that of `nn.ConvTranspose1d`, one group.
        before, after: rows of the result that are cut off.
    """

    def __init__(
        self,
        weight: Float[Tensor, "C D k"],
        bias: Float[Tensor, "D"] | None,
        stride: int,
        before: int,
        after: int,
        activation: Activation | None = None,
    ) -> None:
        channels, self.channels, self.kernel = weight.shape
        self.stride, self.before, self.after = stride, before, after
        taps = math.ceil(self.kernel / stride)
        whole = F.pad(weight, (0, taps * stride - self.kernel)).unflatten(2, (taps, stride)).flip(2)
        self.convolution = Convolution(
            whole.permute(3, 1, 0, 2).flatten(0, 1),
            None if bias is None else bias.repeat(stride),
            padding=Padding(taps - 1, taps - 1),
            activation=activation,
        )
        self.sight = Sight(
            before=Fraction(taps * stride - 1 - before, stride),
            after=Fraction(before, stride),
            rate=Fraction(stride),
            width=max(Fraction(channels), Fraction(self.channels * stride)),
        )

    def __call__(self, rows: Float[Tensor, "N C"]) -> Float[Tensor, "M D"]:
        made = self.convolution(rows).view(-1, self.channels)
        return made[self.before : (len(rows) - 1) * self.stride + self.kernel - self.after]


class Residual:
    """Layers whose result is added to what they were given, or to a convolution of it; they keep the rate."""

    def __init__(self, layers: Sequence[Layer], shortcut: Layer | None = None) -> None:
        self.layers, self.shortcut = layers, shortcut
        self.sight = sight_of(layers)

    def __call__(self, rows: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
        made = in_turn(self.layers, rows)
        return made.add_(rows if self.shortcut is None else self.shortcut(rows))


class HyperbolicTangent:
    """What keeps DAC's sound within full scale."""

    sight = Sight()

    def __call__(self, rows: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
        return rows.tanh()
