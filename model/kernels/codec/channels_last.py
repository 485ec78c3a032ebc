"""A codec's convolutions for inference on a CPU, over sound in channels-last memory.

In PyTorch's own layers the samples of a channel are contiguous, and every convolution begins with a padded copy. Here
the channels of a sample are contiguous ("channels last"), for which oneDNN has kernels that copy nothing, and the
operation before a convolution writes into a buffer with room for the padding. Nothing is approximated, but the order of
sums differs.

A layer maps rows [N, C] to rows, one for each sample. This module is for inference in float32 on a CPU with oneDNN.
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

ONEDNN_CHANNELS = 16
"""Output channels that oneDNN's convolutions always compute at once, even if fewer are needed."""
PACKING_ROWS = 4096
"""Number of rows that weights are laid out for; other numbers give the same results."""
NARROWEST_WINOGRAD = 512
"""Smallest width of a row v and of a row y for which `TwoTapConvolution` is used. On Zen 4 it saves 7 % at 512, 16 % at
1,280 and 35 % at 4,096."""

PaddingMode = Literal["constant", "reflect", "replicate"]
PADDING_MODES = get_args(PaddingMode)
Activation = Callable[[Float[Tensor, "N C"], Float[Tensor, "N C"]], None]
"""Writes the activation of its first argument into the second."""


def elu_into(rows: Float[Tensor, "N C"], out: Float[Tensor, "N C"]) -> None:
    """Write the exponential linear unit (arXiv:1511.07289) of the rows into `out`."""
    torch.ops.aten.elu.out(rows, out=out)


def snake_into(alpha: Float[Tensor, "C"]) -> Activation:
    """Return the activation Snake, x + sin²(αx) / α (arXiv:2006.08195), with an α for each channel, as in DAC."""
    inverse = (alpha + 1e-9).reciprocal()

    def into(rows: Tensor, out: Tensor) -> None:
        torch.mul(rows, alpha, out=out)
        torch.addcmul(rows, out.sin_().square_(), inverse, out=out)

    return into


@dataclass(frozen=True)
class Padding:
    """Rows of padding around a convolution's input."""

    before: int = 0
    after: int = 0
    fill: bool = False
    """Whether more rows are added after the input, to make its length a multiple of the stride."""
    mode: PaddingMode = "constant"


class Convolution:
    """An optional activation, and a convolution of its result.

    Args:
        weight: the weight of an `nn.Conv1d` of one group.
        activation: activation of the input before padding. No activation here would change the padding: all map 0 to 0.
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
        """The same convolution with fewer multiplications, where that is faster."""
        if kernel == 2 * stride and dilation == 1 and min(stride * self.channels, out_channels) >= NARROWEST_WINOGRAD:
            self.fast_path = TwoTapConvolution(weight, bias)
        elif stride == 1 < kernel and out_channels * kernel <= ONEDNN_CHANNELS < self.channels:
            self.fast_path = FewOutputsConvolution(weight, bias, dilation)
        else:
            packing_shape = [1, self.channels, 1, PACKING_ROWS + self.span]
            image = weight[:, :, None].contiguous(memory_format=torch.channels_last)
            self.weight = pack_convolution(image, self._geometry(), packing_shape)
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
        """Return padding, stride and dilation for oneDNN; rows are padded before, so its padding is 0."""
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

    oneDNN's kernels would compute 16 output channels for each tap. Here one product computes what each row adds to all
    of the outputs.
    """

    def __init__(self, weight: Float[Tensor, "D C k"], bias: Float[Tensor, "D"] | None, dilation: int) -> None:
        self.outputs, _, self.kernel = weight.shape
        self.bias, self.dilation = bias, dilation
        self.weight = pack_matrix(weight.permute(2, 0, 1).flatten(0, 1).contiguous())

    def __call__(self, rows: Float[Tensor, "N C"]) -> Float[Tensor, "M D"]:
        products = multiply_packed(rows, self.weight, None)
        width = self.kernel * self.outputs
        length = len(rows) - (self.kernel - 1) * self.dilation
        # For tap k, what the row `k * dilation` later adds to an output.
        taps = products.as_strided(
            (length, self.kernel, self.outputs), (width, self.dilation * width + self.outputs, 1)
        )
        output = taps.sum(1)
        return output if self.bias is None else output.add_(self.bias)


class TwoTapConvolution:
    """A convolution of two taps with a quarter fewer multiplications (Winograd's F(2, 2): arXiv:1509.09308, 4), over
    rows that are padded already.

    A convolution whose kernel is twice its stride, as where a codec changes its rate, is a convolution of two taps over
    rows v of `stride` samples each: y[n] = A v[n] + B v[n + 1]. Two consecutive outputs take three products instead of
    four:

        y[n]     = A (v[n] - v[n + 1]) + (A + B) v[n + 1]
        y[n + 1] = (A + B) v[n + 1] - B (v[n + 1] - v[n + 2])

    The differences and sums take time too, so this is faster only for wide rows. Its rounding errors are about 1.4
    times as large.

    Args:
        weight: the weight of an `nn.Conv1d` whose kernel is twice its stride.
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
    """Write the padding before and after the middle rows."""
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
        # Too short to reflect: as transformers does, append zeros, reflect, and cut to the length again.
        longer = F.pad(middle.t()[None], (0, max(before, after) + 1 - length))
        padded.copy_(F.pad(longer, (before, after), "reflect")[0].t()[: len(padded)])


class TransposedConvolution:
    """An optional activation, and a transposed convolution of its result, computed as a convolution that returns all
    rows of a stride at once.

    Args:
        weight: the weight of an `nn.ConvTranspose1d` of one group.
        before, after: rows that are cut off the start and end of the result.
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
    """Layers whose output is added to their input, or to a convolution of it. They do not change the rate."""

    def __init__(self, layers: Sequence[RowLayer], shortcut: RowLayer | None = None) -> None:
        self.layers, self.shortcut = layers, shortcut
        self.receptive_field = receptive_field_of(layers)

    def __call__(self, rows: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
        return apply_layers(self.layers, rows).add_(rows if self.shortcut is None else self.shortcut(rows))


class HyperbolicTangent:
    """Hyperbolic tangent, which keeps DAC's sound within full scale."""

    receptive_field = ReceptiveField()

    def __call__(self, rows: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
        return rows.tanh()
