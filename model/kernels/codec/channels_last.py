"""A codec's convolutions for inference on a CPU, over sound in channels-last memory.

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

from model.kernels.codec.chunked_layers import ReceptiveField, RowLayer, apply_layers, receptive_field_of
from model.kernels.operators import convolve_packed, multiply_packed, pack_convolution, pack_matrix

LANES = 16
"""Numbers that oneDNN's convolutions make at once, wanted or not."""
USUAL_ROWS = 4096
"""Rows that weights are laid out for; other numbers give the same results."""
NARROWEST_WINOGRAD = 512
"""Numbers in a row v, and in a row y, from which on `TwoTapConvolution` pays: on Zen 4, 7 % at 512, 16 % at 1,280 and
35 % at 4,096."""

PaddingMode = Literal["constant", "reflect", "replicate"]
PADDING_MODES = get_args(PaddingMode)
Activation = Callable[[Float[Tensor, "N C"], Float[Tensor, "N C"]], None]
"""Writes the activation of the first rows into the second."""


def elu_into(rows: Float[Tensor, "N C"], out: Float[Tensor, "N C"]) -> None:
    """Write the exponential linear unit (arXiv:1511.07289) of the rows into `out`."""
    torch.ops.aten.elu.out(rows, out=out)


def snake_into(alpha: Float[Tensor, "C"]) -> Activation:
    """Return Snake, x + sin²(αx) / α (arXiv:2006.08195), with each channel's α, as DAC computes it."""
    inverse = (alpha + 1e-9).reciprocal()

    def into(rows: Tensor, out: Tensor) -> None:
        torch.mul(rows, alpha, out=out)
        torch.addcmul(rows, out.sin_().square_(), inverse, out=out)

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
        self.fast_path: FewOutputsConvolution | TwoTapConvolution | None = None
        """The same with fewer multiplications, where that pays."""
        if kernel == 2 * stride and dilation == 1 and min(stride * self.channels, out_channels) >= NARROWEST_WINOGRAD:
            self.fast_path = TwoTapConvolution(weight, bias)
        elif stride == 1 < kernel and out_channels * kernel <= LANES < self.channels:
            self.fast_path = FewOutputsConvolution(weight, bias, dilation)
        else:
            usual = [1, self.channels, 1, USUAL_ROWS + self.span]
            image = weight[:, :, None].contiguous(memory_format=torch.channels_last)
            self.weight = pack_convolution(image, self._geometry(), usual)
        self.receptive_field = ReceptiveField(
            before=Fraction(padding.before),
            after=Fraction(self.span - 1 - padding.before),
            rate=Fraction(1, stride),
            stride=stride,
            width=max(Fraction(self.channels), Fraction(out_channels, stride)),
        )

    def __call__(self, rows: Float[Tensor, "N C"]) -> Float[Tensor, "M D"]:
        length = rows.shape[0]
        before, after = self.padding.before, self.padding.after + (-length % self.stride if self.padding.fill else 0)
        padded = self.activation is not None or before or after
        rows = self._padded(rows, before, after) if padded else rows.contiguous()
        if self.fast_path is not None:
            return self.fast_path(rows)
        image = rows.as_strided((1, self.channels, 1, len(rows)), (rows.numel(), 1, rows.numel(), self.channels))
        output = convolve_packed(image, self.weight, self.bias, self._geometry())
        return output[0, :, 0].t().contiguous()

    def _geometry(self) -> tuple[list[int], list[int], list[int]]:
        """Return the kernel's own padding, stride and dilation."""
        return [0, 0], [1, self.stride], [1, self.dilation]

    def _padded(self, rows: Tensor, before: int, after: int) -> Tensor:
        length = len(rows)
        padded = rows.new_empty(before + length + after, self.channels)
        middle = padded[before : before + length]
        if self.activation is None:
            middle.copy_(rows)
        else:
            self.activation(rows, middle)
        _fill_edges(padded, before, after, self.padding.mode)
        return padded


class FewOutputsConvolution:
    """A convolution of many channels into one or two, as at a decoder's end, over rows that are padded already.

    oneDNN's kernels make 16 numbers of each tap there. One product gives instead what a row adds to all outputs.
    """

    def __init__(self, weight: Float[Tensor, "D C k"], bias: Float[Tensor, "D"] | None, dilation: int) -> None:
        self.outputs, _, self.kernel = weight.shape
        self.bias, self.dilation = bias, dilation
        self.weight = pack_matrix(weight.permute(2, 0, 1).flatten(0, 1).contiguous())

    def __call__(self, rows: Float[Tensor, "N C"]) -> Float[Tensor, "M D"]:
        products = multiply_packed(rows, self.weight, None)
        width = self.kernel * self.outputs
        length = len(rows) - (self.kernel - 1) * self.dilation
        # For tap k: what the row `k * dilation` later adds.
        taps = products.as_strided(
            (length, self.kernel, self.outputs), (width, self.dilation * width + self.outputs, 1)
        )
        output = taps.sum(1)
        return output if self.bias is None else output.add_(self.bias)


class TwoTapConvolution:
    """A convolution of two taps with a quarter fewer multiplications (Winograd's F(2, 2): arXiv:1509.09308, 4), over
    rows that are padded already.

    A convolution whose kernel is twice its stride, as where a codec changes its rate, is one of two taps over rows as
    long as the stride: y[n] = A v[n] + B v[n + 1]. Two rows that follow each other take three products in place of
    four:

        y[n]     = A (v[n] - v[n + 1]) + (A + B) v[n + 1]
        y[n + 1] = (A + B) v[n + 1] - B (v[n + 1] - v[n + 2])

    The differences and sums cost time as well, so this pays for wide rows alone. It rounds about 1.4 times as much.

    Args:
        weight: as that of `nn.Conv1d`, twice as long as its stride.
    """

    def __init__(self, weight: Float[Tensor, "D C k"], bias: Float[Tensor, "D"] | None) -> None:
        self.width = weight.shape[1] * weight.shape[2] // 2
        first, second = (tap.transpose(1, 2).flatten(1) for tap in weight.chunk(2, dim=2))
        self.first, self.second, self.both = (pack_matrix(tap) for tap in (first, second, first + second))
        self.bias = bias

    def __call__(self, rows: Float[Tensor, "N C"]) -> Float[Tensor, "M D"]:
        length = rows.numel() // self.width
        taps = rows.flatten()[: length * self.width].view(length, self.width)
        pairs = (length - 1) // 2
        even, odd, next_even = taps[0 : 2 * pairs : 2], taps[1 : 2 * pairs : 2], taps[2 : 2 * pairs + 1 : 2]
        middle = multiply_packed(odd.contiguous(), self.both, self.bias)
        output = middle.new_empty(length - 1, middle.shape[1])
        torch.add(multiply_packed(even - odd, self.first, None), middle, out=output[0 : 2 * pairs : 2])
        torch.sub(middle, multiply_packed(odd - next_even, self.second, None), out=output[1 : 2 * pairs : 2])
        if len(output) > 2 * pairs:
            output[-1:] = multiply_packed(taps[-2:-1], self.first, self.bias)
            output[-1:] += multiply_packed(taps[-1:], self.second, None)
        return output


def _fill_edges(padded: Tensor, before: int, after: int, mode: PaddingMode) -> None:
    """Write the padding around the middle rows, from these."""
    length = len(padded) - before - after
    middle, head, tail = padded[before : before + length], padded[:before], padded[before + length :]
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
        padded.copy_(F.pad(longer, (before, after), "reflect")[0].t()[: len(padded)])


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
        filled = F.pad(weight, (0, taps * stride - self.kernel)).unflatten(2, (taps, stride)).flip(2)
        self.convolution = Convolution(
            filled.permute(3, 1, 0, 2).flatten(0, 1),
            None if bias is None else bias.repeat(stride),
            padding=Padding(taps - 1, taps - 1),
            activation=activation,
        )
        self.receptive_field = ReceptiveField(
            before=Fraction(taps * stride - 1 - before, stride),
            after=Fraction(before, stride),
            rate=Fraction(stride),
            width=max(Fraction(channels), Fraction(self.channels * stride)),
        )

    def __call__(self, rows: Float[Tensor, "N C"]) -> Float[Tensor, "M D"]:
        output = self.convolution(rows).view(-1, self.channels)
        return output[self.before : (len(rows) - 1) * self.stride + self.kernel - self.after]


class Residual:
    """Layers whose output is added to their input, or to a convolution of it; they keep the rate."""

    def __init__(self, layers: Sequence[RowLayer], shortcut: RowLayer | None = None) -> None:
        self.layers, self.shortcut = layers, shortcut
        self.receptive_field = receptive_field_of(layers)

    def __call__(self, rows: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
        return apply_layers(self.layers, rows).add_(rows if self.shortcut is None else self.shortcut(rows))


class HyperbolicTangent:
    """The tanh that keeps DAC's sound within full scale."""

    receptive_field = ReceptiveField()

    def __call__(self, rows: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
        return rows.tanh()
