"""Attention written out as products is the fused kernel's, and so are its gradients."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.kernels.attention_by_products import BLOCK, attend_by_products, pays
from model.lm.attention import Attention
from model.lm.config import LanguageModelConfig


def _drawn(steps: int, length: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(steps)
    shapes = [(2, 3, steps, 8), (2, 3, length, 8), (2, 3, length, 8)]
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("steps", [1, 5, BLOCK, BLOCK + 1, 3 * BLOCK - 2])
def test_causal_attention_and_its_gradients_are_the_fused_kernels(steps: int) -> None:
    drawn = _drawn(steps, steps)
    weights = torch.randn(2, 3, steps, 8, generator=torch.Generator().manual_seed(1)).double()
    queries, keys, values = drawn
    found = attend_by_products(queries, keys, values, causal=True)
    expected = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    for one, other in zip(
        torch.autograd.grad(found, drawn, weights), torch.autograd.grad(expected, drawn, weights), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2])
def test_attention_to_some_of_the_keys_is_the_fused_kernels(rows: int) -> None:
    queries, keys, values = _drawn(BLOCK + 9, 5)
    mask = torch.tensor([[True, True, False, True, False], [False, True, True, True, True]])[:rows, None, None]
    for given in (None, mask):
        found = attend_by_products(queries, keys, values, given)
        expected = F.scaled_dot_product_attention(queries, keys, values, given)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_it_takes_the_kernels_place_only_for_gradients_in_bfloat16_on_a_cpu() -> None:
    queries, keys, _ = _drawn(4, 4, torch.bfloat16)
    assert pays(queries, keys, None)
    assert not pays(queries.float(), keys.float(), None)
    assert not pays(queries, keys[:, :1], None)
    assert not pays(queries, keys, torch.ones(1, 1, 4, 4, dtype=torch.bool))
    with torch.no_grad():
        assert not pays(queries, keys, None)


def test_a_layer_gives_the_same_in_bfloat16_with_gradients_and_without() -> None:
    torch.manual_seed(0)
    attention = Attention(LanguageModelConfig(width=32, heads=4, codebooks=2, cardinality=8, layers=1), cross=False)
    inputs = torch.randn(2, BLOCK + 3, 32)
    with torch.autocast("cpu", torch.bfloat16):
        learning = attention.over_self(inputs, None, None, None)
        with torch.no_grad():
            judging = attention.over_self(inputs, None, None, None)
    torch.testing.assert_close(learning, judging, rtol=0.02, atol=0.02)
