"""Layers over blocks of time, so that intermediate results stay in the processor's cache and memory is reused.

Groups of layers run over a sound block by block. Each block includes the rows around it that the receptive field needs,
so that the joined results are those of one pass. The length of a block depends only on the sizes of the layers.
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
"""Size of the widest activation of a block; a few of these fit into the last-level cache."""
MARGINS_A_BLOCK = 8
"""A block is at least this many times as long as its margins, which are computed and discarded."""


@dataclass(frozen=True)
class ReceptiveField:
    """The rows of input that a row of output depends on. Row n of the output is at row n / rate of the input."""

    before: Fraction = Fraction(0)
    """Maximum number of rows before this position."""
    after: Fraction = Fraction(0)
    """Maximum number of rows after this position."""
    rate: Fraction = Fraction(1)
    """Rows of output for each row of input."""
    stride: int = 1
    """A piece of the input must begin at a multiple of this many rows, so that its output is a piece of the output."""
    width: Fraction = Fraction(0)
    """Numbers in the widest activation for each row of input."""

    def then(self, later: "ReceptiveField") -> "ReceptiveField":
        """Return the receptive field of this layer followed by `later`."""
        return ReceptiveField(
            self.before + later.before / self.rate,
            self.after + later.after / self.rate,
            self.rate * later.rate,
            math.lcm(self.stride, (self.rate / later.stride).denominator),
            max(self.width, later.width * self.rate),
        )


@runtime_checkable
class RowLayer(Protocol):
    """A layer from rows to rows, which does not change its input."""

    @property
    def receptive_field(self) -> ReceptiveField:
        """The rows that its output depends on, and the width of its activations."""

    def __call__(self, rows: Float[Tensor, "N C"]) -> Float[Tensor, "M D"]:
        """Return the layer's output."""


class ChunkedLayers:
    """Layers, one after another, that run over the rows in blocks."""

    def __init__(self, layers: Sequence[RowLayer], block_bytes: int = BLOCK_BYTES) -> None:
        self.layers = layers
        self.receptive_field = field = receptive_field_of(layers)
        self.before = max(0, math.ceil(field.before / field.stride) * field.stride)
        # The last kept row of output is at 1 / rate before the end of the block.
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
            last = start == starts[-1]  # it takes the remainder too, which may be too short to reflect at its end
            stop, first = (length if last else start + self.block), max(0, start - self.before)
            output = apply_layers(self.layers, rows[first : length if last else stop + self.after])
            begin = int((start - first) * rate)
            kept_rows.append(output[begin:] if last else output[begin : begin + int((stop - start) * rate)])
        return torch.cat(kept_rows)


def chunk_layers(layers: Sequence[RowLayer]) -> list[ChunkedLayers]:
    """Split layers into groups where the rate changes: before a layer that raises it, and after one that lowers it. So
    the results between groups, which are stored whole, have the lower rate."""
    groups: list[list[RowLayer]] = [[]]
    for layer in layers:
        if layer.receptive_field.rate > 1 and groups[-1]:
            groups.append([])
        groups[-1].append(layer)
        if layer.receptive_field.rate < 1:
            groups.append([])
    return [ChunkedLayers(each) for each in groups if each]


def receptive_field_of(layers: Sequence[RowLayer]) -> ReceptiveField:
    """Return the receptive field of layers that run one after another."""
    field = ReceptiveField()
    for layer in layers:
        field = field.then(layer.receptive_field)
    return field


def apply_layers(layers: Sequence[RowLayer], rows: Float[Tensor, "N C"]) -> Float[Tensor, "M D"]:
    """Apply layers to the rows, one after another."""
    for layer in layers:
        rows = layer(rows)
    return rows
