"""Layers over blocks of time give the result of one pass, and depend on no more rows than their receptive field."""

from fractions import Fraction

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.kernels.codec.channels_last import (
    Convolution,
    Padding,
    PaddingMode,
    Residual,
    TransposedConvolution,
    elu_into,
)
from model.kernels.codec.chunked_layers import ChunkedLayers, RowLayer, apply_layers, chunk_layers, receptive_field_of
from tests.model.kernels.codec.test_channels_last import MODES, drawn


def chain(generator: torch.Generator, mode: PaddingMode) -> list[RowLayer]:
    """Random layers of every kind."""

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    layers: list[RowLayer] = []
    channels = 3
    for _ in range(number(1, 4)):
        kind, wanted = number(0, 2), number(1, 6)
        if kind == 0:
            stride, kernel, dilation = number(1, 4), number(1, 8), number(1, 3)
            kernel = max(kernel, stride)
            total = (kernel - 1) * dilation + 1 - stride
            before = number(0, total)
            padding = Padding(before, total - before, fill=True, mode=mode)
            weight = torch.randn(wanted, channels, kernel, generator=generator) / kernel
            layers.append(Convolution(weight, None, stride, dilation, padding, elu_into))
        elif kind == 1:
            stride = number(1, 4)
            before = number(0, stride)
            weight = torch.randn(channels, wanted, 2 * stride, generator=generator)
            layers.append(TransposedConvolution(weight, None, stride, before, stride - before, elu_into))
        else:
            weight = torch.randn(channels, channels, 3, generator=generator) / 3
            inner = Convolution(weight, None, padding=Padding(1, 1, mode=mode), activation=elu_into)
            layers.append(Residual([inner]))
            continue
        channels = wanted
    return layers


@given(st.integers(0, 10_000), st.integers(1, 900), st.integers(1, 4000), st.sampled_from(MODES))
@settings(max_examples=150, deadline=None)
def test_blocks_give_the_result_of_one_pass(seed: int, length: int, block_bytes: int, mode: PaddingMode) -> None:
    layers = chain(torch.Generator().manual_seed(seed), mode)
    rows = drawn(length, 3, seed=seed)
    whole = apply_layers(layers, rows)
    torch.testing.assert_close(ChunkedLayers(layers, block_bytes)(rows), whole, rtol=1e-5, atol=1e-5)
    parts = [ChunkedLayers(chunked.layers, block_bytes) for chunked in chunk_layers(layers)]
    assert [layer for part in parts for layer in part.layers] == layers
    torch.testing.assert_close(apply_layers(parts, rows), whole, rtol=1e-5, atol=1e-5)


class Listening:
    """A layer that records how many rows it was given."""

    def __init__(self, layer: RowLayer) -> None:
        self.layer, self.receptive_field, self.lengths = layer, layer.receptive_field, list[int]()

    def __call__(self, rows: Tensor) -> Tensor:
        self.lengths.append(len(rows))
        return self.layer(rows)


def test_a_long_sound_takes_several_blocks_that_overlap_by_the_receptive_field() -> None:
    layer = Convolution(drawn(4, 3, 8), None, stride=2, padding=Padding(4, 2, mode="reflect"))
    listening = Listening(layer)
    chunked = ChunkedLayers([listening], block_bytes=1200)
    assert (chunked.before, chunked.after, chunked.block) == (4, 2, 100)
    rows = drawn(950, 3)
    torch.testing.assert_close(chunked(rows), layer(rows))
    assert listening.lengths == [102, *(7 * [106]), 154]


@given(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_rows_outside_the_receptive_field_do_not_change_a_row(seed: int) -> None:
    layers = chain(torch.Generator().manual_seed(seed), "constant")
    field, place = receptive_field_of(layers), 240
    rows = drawn(480, 3)
    changed = rows.clone()
    changed[place] += 1.0
    before, after = apply_layers(layers, rows), apply_layers(layers, changed)
    touched = [Fraction(int(row)) / field.rate for row in (before - after).abs().amax(1).gt(1e-4).nonzero()]
    assert all(place - field.after <= row <= place + field.before for row in touched)
