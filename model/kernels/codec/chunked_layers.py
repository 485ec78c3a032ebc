"""Layers over blocks of time, so that what they make on the way stays in the cache and memory is used again.

A stretch of layers goes over a sound block by block, each with what the layers see around it, of which they say how
much that is; the blocks' results together are those of one pass. Where it pays depends on the sizes alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK_BYTES = 4 * 2**20
"""What the widest activation of a block takes: a few of them fit in the last cache."""
MARGINS_A_BLOCK = 8
"""A block is at least so many times what is computed around it and thrown away."""


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


class Stretch:
    """Layers in turn, over blocks of the rows."""

    def __init__(self, layers: Sequence[Layer], block_bytes: int = BLOCK_BYTES) -> None:
        self.layers = layers
        self.sight = sight = sight_of(layers)
        self.before = max(0, math.ceil(sight.before / sight.step) * sight.step)
        # The last row that is kept lies 1 / rate before the block's end.
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
