"""The decoder: causal, equal to a plain reckoning of it, and the same with its memory as without."""

import pytest
import torch
from torch import Tensor, nn

from model.attention import Attention
from model.configuration import LanguageModelConfig
from model.positions import position_table
from model.transformer import Transformer

WIDTH, HEADS = 16, 2


def _transformer(cross: bool = False, layers: int = 2) -> Transformer:
    torch.manual_seed(0)
    sizes = {"width": WIDTH, "heads": HEADS, "layers": layers, "cross": ("description",) if cross else ()}
    return Transformer(LanguageModelConfig.model_validate(sizes)).eval()


def _plain_attention(attention: Attention, inputs: Tensor, source: Tensor, causal: bool) -> Tensor:
    """Attention head by head and step by step, for one row."""
    queries, keys, values = attention.in_projection.weight.chunk(3)
    size = WIDTH // HEADS
    mixed = torch.zeros_like(inputs)
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        for step, vector in enumerate(inputs):
            seen = source[: step + 1] if causal else source
            scores = (seen @ keys[part].T) @ (queries[part] @ vector) / size**0.5
            mixed[step, part] = scores.softmax(0) @ (seen @ values[part].T)
    return mixed @ attention.out_projection.weight.T


def _plain_transformer(transformer: Transformer, inputs: Tensor, source: Tensor | None) -> Tensor:
    hidden = inputs + position_table(len(inputs), WIDTH, 10_000.0, inputs.device)
    for layer in transformer.layers:
        normed = layer.self_norm(hidden)
        hidden = hidden + _plain_attention(layer.self_attention, normed, normed, True)
        if source is not None:
            hidden = hidden + _plain_attention(layer.cross_attention, layer.cross_norm(hidden), source, False)
        hidden = hidden + layer.contract(nn.functional.gelu(layer.expand(layer.feedforward_norm(hidden))))
    return hidden


@pytest.mark.parametrize("cross", [False, True])
def test_the_decoder_equals_attention_written_as_loops(cross: bool) -> None:
    transformer, inputs = _transformer(cross), torch.randn(2, 7, WIDTH)
    source = torch.randn(2, 5, WIDTH) if cross else None
    with torch.no_grad():
        found = transformer(inputs, source)
        for row in range(2):
            expected = _plain_transformer(transformer, inputs[row], None if source is None else source[row])
            torch.testing.assert_close(found[row], expected, rtol=1e-5, atol=1e-5)


def test_no_gradient_reaches_a_later_step() -> None:
    transformer = _transformer(cross=True)
    inputs, source = torch.randn(1, 9, WIDTH, requires_grad=True), torch.randn(1, 4, WIDTH, requires_grad=True)
    for step in range(9):
        ahead, conditions = torch.autograd.grad(transformer(inputs, source)[0, step].sum(), (inputs, source))
        reach = ahead[0].abs().amax(-1)
        assert (reach[: step + 1] > 0).all()
        assert (reach[step + 1 :] == 0).all()
        assert (conditions.abs().amax(-1) > 0).all()


@pytest.mark.parametrize("cross", [False, True])
def test_step_by_step_with_a_cache_is_the_same_as_at_once(cross: bool) -> None:
    transformer, inputs = _transformer(cross), torch.randn(3, 12, WIDTH)
    source = torch.randn(3, 5, WIDTH) if cross else None
    with torch.no_grad():
        expected = transformer(inputs, source)
        cache = transformer.allocate(3, 12, 8 if cross else 0)
        if source is not None:
            transformer.remember_source(cache, source)
        found = [transformer(inputs[:, :4], cache=cache)]
        found += [transformer(inputs[:, step : step + 1], cache=cache) for step in range(4, 12)]
    assert cache.length == 12
    torch.testing.assert_close(torch.cat(found, dim=1), expected, rtol=1e-5, atol=1e-5)


def test_what_is_written_to_rows_of_a_cache_is_in_the_cache() -> None:
    transformer = _transformer(cross=True)
    cache = transformer.allocate(4, 6, 3)
    with torch.no_grad():
        transformer.remember_source(cache.rows(2, 4), torch.randn(2, 2, WIDTH))
        transformer(torch.randn(2, 5, WIDTH), cache=cache.rows(2, 4))
    written = [
        layer.keys.abs().sum((1, 2, 3)) + layer.cross_keys.abs().sum((1, 2, 3))
        for layer in cache.layers
        if layer.cross_keys is not None
    ]
    assert all((rows > 0).tolist() == [False, False, True, True] for rows in written)
    assert cache.cross_mask is not None
    assert cache.cross_mask.sum((1, 2, 3)).tolist() == [0, 0, 2, 2]


def test_deeper_layers_start_narrower() -> None:
    torch.manual_seed(0)
    transformer = Transformer(LanguageModelConfig(width=128, heads=4, layers=4, cross=()))
    for depth, layer in enumerate(transformer.layers, start=1):
        deviation = layer.contract.weight.std().item()
        # A Gaussian cut at three deviations has 0.9866 of its deviation.
        assert deviation == pytest.approx(0.9866 * (4 * 128) ** -0.5 / (2 * depth) ** 0.5, rel=0.02)


def test_wrong_use_says_what_was_expected() -> None:
    transformer = _transformer(cross=True)
    with pytest.raises(ValueError, match="expected a source for cross-attention, got none"):
        transformer(torch.randn(1, 3, WIDTH))
    cache = transformer.allocate(1, 6, 2)
    with pytest.raises(ValueError, match="room for 3 condition vectors"):
        transformer.remember_source(cache, torch.randn(1, 3, WIDTH))
    transformer.remember_source(cache, torch.randn(1, 2, WIDTH))
    transformer(torch.randn(1, 2, WIDTH), cache=cache)
    with pytest.raises(ValueError, match="one position at a time after the first 2, got 2"):
        transformer(torch.randn(1, 2, WIDTH), cache=cache)
