"""The decoder in all its forms: causal, equal to a plain computation, and the same with its cache as without."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.lm.config import LanguageModelConfig
from model.lm.transformer import Transformer
from tests.worlds.plain_transformer import FORMS, WIDTH, run_plainly, transformer

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_the_decoder_equals_attention_written_as_loops(form: str, cross: bool) -> None:
    made, inputs = transformer(form, cross), torch.randn(2, 7, WIDTH)
    cross_states = torch.randn(2, 5, WIDTH) if cross else None
    with torch.no_grad():
        found = made(inputs, cross_states)
        for row in range(2):
            expected = run_plainly(made, inputs[row], None if cross_states is None else cross_states[row])
            torch.testing.assert_close(found[row], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_no_gradient_reaches_a_later_step_or_one_before_the_context(form: str) -> None:
    made = transformer(form, cross=True, layers=1)
    past = made.config.past_context or 9
    inputs, cross_states = torch.randn(1, 9, WIDTH, requires_grad=True), torch.randn(1, 4, WIDTH, requires_grad=True)
    for step in range(9):
        # A random sum, because after a norm the plain sum is the same for all inputs.
        direction = torch.randn(WIDTH)
        ahead, conditions = torch.autograd.grad(
            (made(inputs, cross_states)[0, step] * direction).sum(), (inputs, cross_states)
        )
        reach = ahead[0].abs().amax(-1)
        seen = torch.arange(9)
        assert torch.equal(reach > 0, (seen <= step) & (seen >= step - past))
        assert (conditions.abs().amax(-1) > 0).all()


def _assert_steps_equal_the_whole(made: Transformer, known: int) -> None:
    cross, inputs = bool(made.config.cross), torch.randn(3, 12, WIDTH)
    cross_states = torch.randn(3, 5, WIDTH) if cross else None
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [1, 1, 1, 0, 0]]).bool() if cross else None
    with torch.no_grad():
        expected = made(inputs, cross_states, mask)
        cache = made.allocate(3, 12, 8 if cross else 0)
        if cross_states is not None:
            made.cache_cross_kv(cache, cross_states, mask)
        found = [made(inputs[:, :known], cache=cache)]
        found += [made(inputs[:, step : step + 1], cache=cache) for step in range(known, 12)]
    assert cache.length == 12
    torch.testing.assert_close(torch.cat(found, dim=1), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_decoding_step_by_step_with_a_cache_equals_one_pass(form: str, cross: bool) -> None:
    _assert_steps_equal_the_whole(transformer(form, cross), known=4)


@settings(max_examples=40, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "norm": st.sampled_from(["before", "after"]),
            "attention_bias": st.booleans(),
            "positions": st.sampled_from(["rotary", "both"]),
            "xpos": st.booleans(),
            "position_scale": st.floats(0, 1),
            "layer_scale": st.none() | st.floats(0.01, 1),
            "cross_query_key_norm": st.booleans(),
            "key_value_heads": st.sampled_from([1, 2, 4, None]),
            "past_context": st.none() | st.integers(1, 14),
        }
    ),
    st.booleans(),
    st.integers(1, 11),
)
def test_decoding_step_by_step_equals_one_pass_for_any_mixture_of_forms(form: dict, cross: bool, known: int) -> None:
    _assert_steps_equal_the_whole(transformer("as published", cross, **form), known)


def _assert_rows_have_their_own_bits(made: Transformer, threads: int = 1) -> None:
    """For as many rows as the engine decodes: matrix products with another number of rows may round the last rows
    differently."""
    rows, width, before = 16, made.config.width, torch.get_num_threads()
    inputs, cross_states = torch.randn(rows, 6, width), torch.randn(rows, 5, width)
    mask = torch.arange(5) < (torch.arange(rows) % 5 + 1)[:, None]

    def decoded(order: Tensor) -> Tensor:
        cache = made.allocate(rows, 6, 5)
        for place, row in enumerate(order.tolist()):
            own, mine = cache.rows(place, place + 1), slice(row, row + 1)
            made.cache_cross_kv(own, cross_states[mine], mask[mine])
            made(inputs[mine, :3], cache=own)
        cache.length = 3
        torch.set_num_threads(threads)
        try:
            found = [made(inputs[order][:, step : step + 1], cache=cache) for step in range(3, 6)]
        finally:
            torch.set_num_threads(before)
        return torch.cat(found, dim=1)

    order = torch.randperm(rows)
    with torch.no_grad():
        assert torch.equal(decoded(torch.arange(rows))[order], decoded(order))


@pytest.mark.parametrize("form", FORMS)
def test_decoding_gives_a_row_the_same_bits_at_any_place_in_the_batch(form: str) -> None:
    _assert_rows_have_their_own_bits(transformer(form, cross=True))


def test_decoding_with_two_threads_gives_a_row_the_same_bits_at_any_place_in_the_batch() -> None:
    _assert_rows_have_their_own_bits(transformer("all together", cross=True, width=224, layers=1), threads=2)


def test_grouped_heads_are_cached_without_repetition() -> None:
    cache = transformer("grouped heads", cross=True).allocate(3, 5, 2)
    assert [tuple(layer.keys.numbers.shape) for layer in cache.layers] == [(3, 2, 5, 4)] * 2
    assert [tuple(layer.cross_keys.numbers.shape) for layer in cache.layers if layer.cross_keys is not None] == [
        (3, 4, 2, 4)
    ] * 2


@pytest.mark.parametrize("masked", [False, True])
def test_masked_vectors_of_the_conditions_change_nothing(masked: bool) -> None:
    made, inputs, cross_states = transformer(cross=True), torch.randn(2, 6, WIDTH), torch.randn(2, 5, WIDTH)
    mask = torch.arange(5) < torch.tensor([2, 5])[:, None]
    other = torch.where(mask[..., None], cross_states, 7.0)
    with torch.no_grad():
        first, second = (made(inputs, given, mask if masked else None) for given in (cross_states, other))
    assert torch.equal(first, second) == masked
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("form", FORMS)
def test_checkpointed_layers_give_the_same_loss_and_gradients_bit_for_bit(form: str, dropout: float) -> None:
    made = transformer(form, cross=True, dropout=dropout).train()
    inputs, cross_states = torch.randn(2, 7, WIDTH, requires_grad=True), torch.randn(2, 3, WIDTH, requires_grad=True)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    wanted = [inputs, cross_states, *made.parameters()]
    results = []
    for made.checkpointing in (False, True):
        torch.manual_seed(5)
        loss = made(inputs, cross_states, mask).square().mean()
        gradients = torch.autograd.grad(loss, wanted)
        # Draws after the layers must not depend on checkpointing either.
        results.append((loss.detach(), *gradients, torch.rand(3)))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_layers_give_the_same_loss_and_gradients_and_share_one_graph(backend: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.worlds.compiled_layers", backend], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-4000:]


def test_checkpointed_layers_keep_less_than_a_fifth_of_the_tensors_for_the_gradient() -> None:
    made, inputs = transformer(layers=4), torch.randn(2, 16, WIDTH)
    kept = []
    for made.checkpointing in (False, True):
        sizes: list[int] = []

        def keep(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            made(inputs)
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 5


def test_attention_may_have_its_own_dropout() -> None:
    inputs = torch.randn(1, 6, WIDTH)
    sizes = {"width": WIDTH, "heads": 4, "layers": 1, "cross": ()}
    for shares in ({"dropout": 0.5, "attention_dropout": 0.0}, {"attention_dropout": 0.5}):
        torch.manual_seed(0)
        made = Transformer(LanguageModelConfig.model_validate(sizes | shares))
        layer = made.layers[0]
        assert (layer.self_attention.dropout, layer.dropout.p) == (
            shares["attention_dropout"],
            shares.get("dropout", 0.0),
        )
        with torch.no_grad():
            assert not torch.equal(made(inputs), made(inputs))
            made.eval()
            assert torch.equal(made(inputs), made(inputs))


def test_writes_to_rows_of_a_cache_reach_the_cache() -> None:
    made = transformer(cross=True)
    cache = made.allocate(4, 6, 3)
    with torch.no_grad():
        made.cache_cross_kv(cache.rows(2, 4), torch.randn(2, 2, WIDTH))
        made(torch.randn(2, 5, WIDTH), cache=cache.rows(2, 4))
    written = [
        layer.keys.read().abs().sum((1, 2, 3)) + layer.cross_keys.read().abs().sum((1, 2, 3))
        for layer in cache.layers
        if layer.cross_keys is not None
    ]
    assert all((rows > 0).tolist() == [False, False, True, True] for rows in written)
    assert cache.cross_mask is not None
    assert cache.cross_mask.sum((1, 2, 3)).tolist() == [0, 0, 2, 2]


def test_deeper_layers_start_with_smaller_weights_and_biases_at_zero() -> None:
    torch.manual_seed(0)
    config = LanguageModelConfig(width=128, heads=4, layers=4, cross=(), feedforward_bias=True, attention_bias=True)
    for depth, layer in enumerate(Transformer(config).layers, start=1):
        deviation = layer.contract.weight.std().item()
        # A Gaussian cut at three standard deviations has 0.9866 of its standard deviation.
        assert deviation == pytest.approx(0.9866 * (4 * 128) ** -0.5 / (2 * depth) ** 0.5, rel=0.02)
        for linear in (layer.expand, layer.contract, layer.self_attention.in_projection):
            assert (linear.bias == 0).all()


def test_a_layer_scale_starts_from_its_value() -> None:
    made = Transformer(LanguageModelConfig(width=16, heads=4, layers=2, layer_scale=1e-3))
    for layer in made.layers:
        for scale in (layer.self_scale, layer.cross_scale, layer.feedforward_scale):
            assert torch.equal(scale, torch.full((16,), 1e-3))


def test_wrong_use_is_refused() -> None:
    made = transformer(cross=True)
    with pytest.raises(ValueError, match="expected conditions for cross-attention, got none"):
        made(torch.randn(1, 3, WIDTH))
    cache = made.allocate(1, 6, 2)
    with pytest.raises(ValueError, match="room for 3 condition vectors"):
        made.cache_cross_kv(cache, torch.randn(1, 3, WIDTH))
    made.cache_cross_kv(cache, torch.randn(1, 2, WIDTH))
    made(torch.randn(1, 2, WIDTH), cache=cache)
    with pytest.raises(ValueError, match="one position at a time after the first 2, got 2"):
        made(torch.randn(1, 2, WIDTH), cache=cache)
