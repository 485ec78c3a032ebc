"""Layers over blocks of time, so that what they make on the way stays in the cache and memory is used again.

Some layers run over a sound block by block, each block with what their receptive field holds around it; the blocks'
results together are those of one pass. Where it pays depends on the sizes alone.
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
class ReceptiveField:
    """Which rows of input a row of output depends on: row n of the output lies at n / rate among those."""

    before: Fraction = Fraction(0)
    """Rows before it, at most."""
    after: Fraction = Fraction(0)
    """Rows after it, at most."""
    rate: Fraction = Fraction(1)
    """Rows of output for each of input."""
    stride: int = 1
    """A piece of the input must begin at a multiple of so many rows for its output to be a piece of the output."""
    width: Fraction = Fraction(0)
    """Numbers of the widest activation for each row of input."""

    def then(self, later: "ReceptiveField") -> "ReceptiveField":
        """Return that of two layers, one after the other."""
        return ReceptiveField(
            self.before + later.before / self.rate,
            self.after + later.after / self.rate,
            self.rate * later.rate,
            math.lcm(self.stride, (self.rate / later.stride).denominator),
            max(self.width, later.width * self.rate),
        )


@runtime_checkable
class RowLayer(Protocol):
    """Anything from rows to rows, which leaves its input as it is."""

    @property
    def receptive_field(self) -> ReceptiveField:
        """What its output depends on, and how much it holds."""

    def __call__(self, rows: Float[Tensor, "N C"]) -> Float[Tensor, "M D"]:
        """Return the layer's output."""


class ChunkedLayers:
    """Layers, one after the other, over blocks of the rows."""

    def __init__(self, layers: Sequence[RowLayer], block_bytes: int = BLOCK_BYTES) -> None:
        self.layers = layers
        self.receptive_field = field = receptive_field_of(layers)
        self.before = max(0, math.ceil(field.before / field.stride) * field.stride)
        # The last row that is kept lies 1 / rate before the block's end.
        self.after = max(0, math.ceil(field.after + 1 - 1 / field.rate))
        rows = max(1, block_bytes // math.ceil(4 * field.width), MARGINS_A_BLOCK * (self.before + self.after))
        self.block = math.ceil(rows / field.stride) * field.stride

    def __call__(self, rows: Float[Tensor, "N C"]) -> Float[Tensor, "M D"]:
        length, rate = len(rows), self.receptive_field.rate
        starts = range(0, max(1, length // self.block) * self.block, self.block)
        if len(starts) == 1:
            return apply_layers(self.layers, rows)
        kept_rows = []
        for start in starts:
            last = start == starts[-1]  # and longer than others: what is left is too short to mirror its own end
            stop, first = (length if last else start + self.block), max(0, start - self.before)
            output = apply_layers(self.layers, rows[first : length if last else stop + self.after])
            begin = int((start - first) * rate)
            kept_rows.append(output[begin:] if last else output[begin : begin + int((stop - start) * rate)])
        return torch.cat(kept_rows)


def chunk_layers(layers: Sequence[RowLayer]) -> list[ChunkedLayers]:
    """Group the layers, cut where the rate changes: the lower rate's side of such a layer is what is kept whole."""
    groups: list[list[RowLayer]] = [[]]
    for layer in layers:
        if layer.receptive_field.rate > 1 and groups[-1]:
            groups.append([])
        groups[-1].append(layer)
        if layer.receptive_field.rate < 1:
            groups.append([])
    return [ChunkedLayers(each) for each in groups if each]


def receptive_field_of(layers: Sequence[RowLayer]) -> ReceptiveField:
    """Return the receptive field of layers, one after the other."""
    field = ReceptiveField()
    for layer in layers:
        field = field.then(layer.receptive_field)
    return field


def apply_layers(layers: Sequence[RowLayer], rows: Float[Tensor, "N C"]) -> Float[Tensor, "M D"]:
    """Apply layers to the rows, one after the other."""
    for layer in layers:
        rows = layer(rows)
    return rows
