"""Convolutions of a codec as a CPU runs them fastest: over sound that lies moment after moment, in blocks of time.

PyTorch's own layers keep each channel's samples together, write a padded copy before every convolution and each
activation to fresh memory. Here the channels of a moment lie together ("channels last"), for which oneDNN has kernels
that copy nothing; what comes before a convolution writes into a buffer with room for the padding; and a stretch of
layers goes over the sound block by block, with what it sees around a block, so that its widest activations stay in the
cache. It is the same function: nothing is approximated, but sums are added up in other orders.

A layer takes and gives rows [N, C], one for each moment. For inference in float32 on a CPU that has oneDNN.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from model.codec.two_taps import NARROWEST, TwoTaps

BLOCK_BYTES = 4 * 2**20
"""What the widest activation of a block takes: a few of them fit in the last cache."""
MARGINS_A_BLOCK = 8
"""A block is at least so many times what is computed around it and thrown away."""
USUAL_ROWS = 4096
"""Rows that weights are laid out for; others are as right."""

PaddingMode = Literal["constant", "reflect", "replicate"]
PADDING_MODES = get_args(PaddingMode)
Activation = Callable[[Float[Tensor, "N C"], Float[Tensor, "N C"]], None]
"""Writes what it makes of the first rows into the second."""


@dataclass(frozen=True)
class Sight:
    """What a row of output is made of, in rows of input: a row n of the output lies at n / rate among those."""

    before: Fraction = Fraction(0)
    """How far before itself it looks at most."""
    after: Fraction = Fraction(0)
    """How far after itself it looks at most."""
    rate: Fraction = Fraction(1)
    """Rows of output for each of input."""
    step: int = 1
    """A piece of the input must begin at a multiple of so many rows for its output to be a piece of the output."""
    width: Fraction = Fraction(0)
    """Numbers of the widest activation for each row of input."""

    def then(self, later: "Sight") -> "Sight":
        """That of two layers in turn."""
        return Sight(
            self.before + later.before / self.rate,
            self.after + later.after / self.rate,
            self.rate * later.rate,
            math.lcm(self.step, (self.rate / later.step).denominator),
            max(self.width, later.width * self.rate),
        )


@runtime_checkable
class Layer(Protocol):
    """Anything from rows to rows, which leaves those that it is given as they are."""

    @property
    def sight(self) -> Sight:
        """How far it looks, and how much it holds."""

    def __call__(self, rows: Float[Tensor, "N C"]) -> Float[Tensor, "M D"]:
        """What it makes of them."""


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
        self.two_taps: TwoTaps | None = None
        if kernel == 2 * stride and dilation == 1 and min(stride * self.channels, out_channels) >= NARROWEST:
            self.two_taps = TwoTaps(weight, bias)
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
        if self.activation is not None or before or after:
            rows = self._padded(rows, before, after)
        if self.two_taps is not None:
            return self.two_taps(rows)
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


@dataclass(frozen=True)
class HyperbolicTangent:
    """What keeps DAC's sound within full scale."""

    sight: Sight = Sight()

    def __call__(self, rows: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
        return rows.tanh()


class Stretch:
    """Layers in turn, over blocks of the rows."""

    def __init__(self, layers: Sequence[Layer], block_bytes: int = BLOCK_BYTES) -> None:
        self.layers = layers
        self.sight = sight = sight_of(layers)
        self.before = max(0, math.ceil(sight.before / sight.step) * sight.step)
        # The last row that is kept lies before the block's end by the distance of two.
        self.after = max(0, math.ceil(sight.after + 1 - 1 / sight.rate))
        rows = max(1, block_bytes // math.ceil(4 * sight.width), MARGINS_A_BLOCK * (self.before + self.after))
        self.block = math.ceil(rows / sight.step) * sight.step

    def __call__(self, rows: Float[Tensor, "N C"]) -> Float[Tensor, "M D"]:
        length, rate = len(rows), self.sight.rate
        starts = range(0, max(1, length // self.block) * self.block, self.block)
        if len(starts) == 1:
            return in_turn(self.layers, rows)
        found = []
        for start in starts:
            last = start == starts[-1]  # and longer than others: what is left is too short to mirror its own end
            stop, first = (length if last else start + self.block), max(0, start - self.before)
            made = in_turn(self.layers, rows[first : length if last else stop + self.after])
            kept = int((start - first) * rate)
            found.append(made[kept:] if last else made[kept : kept + int((stop - start) * rate)])
        return torch.cat(found)


def stretches(layers: Sequence[Layer]) -> list[Stretch]:
    """The layers in turn, cut where the rate changes: the lower rate's side of such a layer is what is kept whole."""
    found: list[list[Layer]] = [[]]
    for layer in layers:
        if layer.sight.rate > 1 and found[-1]:
            found.append([])
        found[-1].append(layer)
        if layer.sight.rate < 1:
            found.append([])
    return [Stretch(each) for each in found if each]


def sight_of(layers: Sequence[Layer]) -> Sight:
    """That of layers in turn."""
    sight = Sight()
    for layer in layers:
        sight = sight.then(layer.sight)
    return sight


def in_turn(layers: Sequence[Layer], rows: Float[Tensor, "N C"]) -> Float[Tensor, "M D"]:
    """What the layers make of the rows, one after the other."""
    for layer in layers:
        rows = layer(rows)
    return rows
