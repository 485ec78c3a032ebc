"""Attention written out as products, batch-invariant or for training, equals the fused kernel, gradients included."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.kernels.attention import BLOCK, attention_by_products, batch_invariant_attention, prefers_products
from model.lm.attention import AttentionInputs, CacheSegment, SelfAttention, Uncached, attend, causal_mask
from model.lm.config import LanguageModelConfig


def _drawn(steps: int, length: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(steps)
    shapes = [(2, 3, steps, 8), (2, 3, length, 8), (2, 3, length, 8)]
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("steps", [1, 5, BLOCK, BLOCK + 1, 3 * BLOCK - 2])
def test_causal_attention_and_its_gradients_equal_the_fused_kernels(steps: int) -> None:
    drawn = _drawn(steps, steps)
    weights = torch.randn(2, 3, steps, 8, generator=torch.Generator().manual_seed(1)).double()
    queries, keys, values = drawn
    found = attention_by_products(queries, keys, values, causal=True)
    expected = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    for one, other in zip(
        torch.autograd.grad(found, drawn, weights), torch.autograd.grad(expected, drawn, weights), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2])
def test_masked_attention_equals_the_fused_kernels(rows: int) -> None:
    queries, keys, values = _drawn(BLOCK + 9, 5)
    mask = torch.tensor([[True, True, False, True, False], [False, True, True, True, True]])[:rows, None, None]
    for given in (None, mask):
        found = attention_by_products(queries, keys, values, given)
        expected = F.scaled_dot_product_attention(queries, keys, values, given)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_products_replace_the_kernel_only_for_gradients_in_bfloat16_on_a_cpu() -> None:
    queries, keys, _ = _drawn(4, 4, torch.bfloat16)
    assert prefers_products(queries, keys, None)
    assert not prefers_products(queries.float(), keys.float(), None)
    assert not prefers_products(queries, keys[:, :1], None)
    assert not prefers_products(queries, keys, torch.ones(1, 1, 4, 4, dtype=torch.bool))
    with torch.no_grad():
        assert not prefers_products(queries, keys, None)


def test_a_layer_in_bfloat16_gives_the_same_with_gradients_and_without() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(LanguageModelConfig(width=32, heads=4, codebooks=2, cardinality=8, layers=1), 0)
    shared = AttentionInputs([CacheSegment(slice(None), Uncached(None), None, "causal", None)])
    inputs = torch.randn(2, BLOCK + 3, 32)
    with torch.autocast("cpu", torch.bfloat16):
        with_gradients = attention(inputs, shared)
        with torch.no_grad():
            without = attention(inputs, shared)
    torch.testing.assert_close(with_gradients, without, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("past_context", [None, 2])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_batch_invariant_attention_equals_the_fused_kernels(key_heads: int, past_context: int | None) -> None:
    torch.manual_seed(0)
    queries, (keys, values) = torch.randn(2, 4, 5, 8), torch.randn(2, 2, key_heads, 5, 8)
    mask = causal_mask(5, past_context, torch.device("cpu"))
    found, expected = batch_invariant_attention(queries, keys, values, mask), attend(queries, keys, values, mask)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(attend(queries, keys, values, mask, batch_invariant=True), found)
    step = queries[:, :, -1:]
    found, expected = batch_invariant_attention(step, keys, values), attend(step, keys, values, None)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
