"""Convolutions over rows equal PyTorch's, for all settings."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from model.kernels.codec.channels_last import (
    Convolution,
    FewOutputsConvolution,
    Padding,
    PaddingMode,
    TransposedConvolution,
    TwoTapConvolution,
    elu_into,
    snake_into,
)

SIZES = st.integers(1, 5)
MODES: list[PaddingMode] = ["constant", "reflect", "replicate"]


def drawn(*sizes: int, seed: int = 0) -> Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed))


def close(output: Tensor, expected: Tensor) -> None:
    """Rows [N, C] against channels [1, C, N]."""
    torch.testing.assert_close(output, expected[0].t(), rtol=1e-5, atol=1e-5)


@given(
    SIZES, SIZES, st.integers(1, 9), st.integers(1, 5), st.integers(1, 4), st.integers(1, 70), st.sampled_from(MODES),
    st.booleans(), st.integers(0, 8), st.integers(0, 8),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_a_convolution_equals_pytorchs_over_the_padded_activation(
    channels: int, wanted: int, kernel: int, stride: int, dilation: int, length: int, mode: PaddingMode, biased: bool,
    before: int, after: int,
) -> None:  # fmt: skip
    span = (kernel - 1) * dilation + 1
    before, after = min(before, length - 1), min(after, length - 1)
    if length + before + after < span:
        return
    inputs, weight = drawn(1, channels, length), drawn(wanted, channels, kernel, seed=1)
    bias = drawn(wanted, seed=2) if biased else None
    layer = Convolution(weight, bias, stride, dilation, Padding(before, after, mode=mode), elu_into)
    expected = F.conv1d(F.pad(F.elu(inputs), (before, after), mode), weight, bias, stride, dilation=dilation)
    rows = inputs[0].t().contiguous()
    close(layer(rows), expected)
    assert torch.equal(rows, inputs[0].t())


@given(st.integers(1, 40), st.integers(0, 9), st.integers(1, 6), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_filling_the_end_gives_a_row_for_every_started_stride(
    length: int, before: int, stride: int, kernel: int
) -> None:
    kernel = max(kernel, stride)
    layer = Convolution(drawn(2, 3, kernel), None, stride, padding=Padding(kernel - stride, fill=True, mode="reflect"))
    assert layer(drawn(length, 3)).shape == (-(-length // stride), 2)


@given(SIZES, SIZES, st.integers(1, 12), st.integers(1, 6), st.integers(1, 30), st.data())
@settings(max_examples=100, deadline=None)
def test_a_transposed_convolution_equals_pytorchs_without_the_trimmed_ends(
    channels: int, wanted: int, kernel: int, stride: int, length: int, data: st.DataObject
) -> None:
    inputs, weight, bias = drawn(1, channels, length), drawn(channels, wanted, kernel, seed=1), drawn(wanted, seed=2)
    whole = F.conv_transpose1d(F.elu(inputs), weight, bias, stride)
    before = data.draw(st.integers(0, whole.shape[-1] - 1))
    after = data.draw(st.integers(0, whole.shape[-1] - 1 - before))
    output = TransposedConvolution(weight, bias, stride, before, after, elu_into)(inputs[0].t().contiguous())
    close(output, whole[..., before : whole.shape[-1] - after])


@given(st.integers(1, 3), SIZES, st.integers(1, 6), st.integers(1, 90), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_two_tap_convolution_by_three_products_equals_pytorchs(
    stride: int, channels: int, wanted: int, spare: int, biased: bool
) -> None:
    rows, weight = drawn(2 * stride + spare, channels), drawn(wanted, channels, 2 * stride, seed=1)
    bias = drawn(wanted, seed=2) if biased else None
    close(TwoTapConvolution(weight, bias)(rows), F.conv1d(rows.t()[None], weight, bias, stride))


@given(st.integers(17, 40), st.integers(1, 2), st.integers(2, 8), st.integers(1, 3), st.integers(0, 60), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_convolution_into_few_channels_equals_pytorchs(
    channels: int, wanted: int, kernel: int, dilation: int, spare: int, biased: bool
) -> None:
    length = (kernel - 1) * dilation + 1 + spare
    rows, weight = drawn(length, channels), drawn(wanted, channels, kernel, seed=1)
    bias = drawn(wanted, seed=2) if biased else None
    layer = Convolution(weight, bias, dilation=dilation, padding=Padding(1, 1), activation=elu_into)
    assert isinstance(layer.fast_path, FewOutputsConvolution)
    expected = F.conv1d(F.pad(F.elu(rows.t()[None]), (1, 1)), weight, bias, dilation=dilation)
    torch.testing.assert_close(layer(rows), expected[0].t(), rtol=1e-5, atol=3e-5)


def test_wide_convolutions_use_the_two_tap_path_and_equal_pytorchs() -> None:
    inputs, weight, bias = drawn(1, 128, 39), drawn(512, 128, 8, seed=1) / 32, drawn(512, seed=2)
    layer = Convolution(weight, bias, 4, padding=Padding(3, 1, mode="reflect"), activation=elu_into)
    assert isinstance(layer.fast_path, TwoTapConvolution)
    rows = inputs[0].t().contiguous()
    close(layer(rows), F.conv1d(F.pad(F.elu(inputs), (3, 1), "reflect"), weight, bias, 4))
    back = TransposedConvolution(drawn(512, 128, 8, seed=3) / 32, bias[:128], 4, 2, 2, elu_into)
    assert isinstance(back.convolution.fast_path, TwoTapConvolution)
    wide = drawn(1, 512, 11)
    expected = F.conv_transpose1d(F.elu(wide), drawn(512, 128, 8, seed=3) / 32, bias[:128], 4)[..., 2:-2]
    close(back(wide[0].t().contiguous()), expected)


def test_snake_equals_its_formula_in_every_channel() -> None:
    rows, alpha = drawn(50, 4), drawn(4, seed=1).abs() + 0.1
    out = torch.empty_like(rows)
    snake_into(alpha)(rows, out)
    torch.testing.assert_close(out, rows + torch.sin(alpha * rows).square() / alpha)


def test_a_linear_layer_is_a_convolution_of_one_row() -> None:
    linear = nn.Linear(4, 6)
    rows = drawn(9, 4)
    with torch.no_grad():
        torch.testing.assert_close(Convolution(linear.weight[:, :, None], linear.bias.detach())(rows), linear(rows))


def test_rows_that_are_not_contiguous_are_convolved_correctly() -> None:
    rows, weight = drawn(40, 8)[:, ::2], drawn(3, 4, 2, seed=1)
    assert not rows.is_contiguous()
    close(Convolution(weight, None)(rows), F.conv1d(rows.t()[None], weight))
