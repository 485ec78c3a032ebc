"""Attention: its reach, and a projection that is replaced by an adapter."""

import pytest
import torch
from torch import Tensor, nn

from model.lm.attention import Attention, CrossAttention, SelfAttention, causal_mask
from model.lm.config import LanguageModelConfig
from tests.worlds.plain_transformer import WIDTH, transformer


class LowRank(nn.Module):
    """A linear layer plus a low-rank product, like an adapter."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.base(inputs) + self.up(self.down(inputs))

    def merged(self) -> nn.Linear:
        with torch.no_grad():
            self.base.weight += self.up.weight @ self.down.weight
        return self.base


@pytest.mark.parametrize("form", ["as published", "biases", "query-key norm"])
def test_an_adapted_projection_equals_a_merged_one(form: str) -> None:
    made, inputs, source = transformer(form, cross=True), torch.randn(2, 6, WIDTH), torch.randn(2, 3, WIDTH)
    attentions = [part for part in made.modules() if isinstance(part, Attention)]
    assert len(attentions) == 4

    def outputs() -> list[Tensor]:
        cache = made.allocate(2, 6, 3)
        made.cache_cross_kv(cache, source)
        return [made(inputs, source), made(inputs, cache=cache)]

    with torch.no_grad():
        before = outputs()
        for attention in attentions:
            assert isinstance(attention.in_projection, nn.Linear)
            attention.in_projection = LowRank(attention.in_projection)
        adapted = outputs()
        for attention in attentions:
            assert isinstance(attention.in_projection, LowRank)
            attention.in_projection = attention.in_projection.merged()
        for first, second, third in zip(before, adapted, outputs(), strict=True):
            assert not torch.allclose(first, second, atol=1e-3)
            torch.testing.assert_close(second, third, rtol=1e-5, atol=1e-5)


def test_a_step_attends_to_itself_and_to_the_allowed_number_of_earlier_steps() -> None:
    everything, near = (causal_mask(5, past, torch.device("cpu"))[0, 0].sum(1).tolist() for past in (None, 2))
    assert everything == [1, 2, 3, 4, 5]
    assert near == [1, 2, 3, 3, 3]


def test_cross_attention_has_as_many_key_heads_as_query_heads_and_self_attention_may_have_fewer() -> None:
    config = LanguageModelConfig(width=16, heads=4, key_value_heads=2, past_context=3)
    own, cross = SelfAttention(config, 0), CrossAttention(config, 0)
    assert (own.key_value_heads, tuple(own.in_projection.weight.shape)) == (2, (32, 16))
    assert (cross.key_value_heads, tuple(cross.in_projection.weight.shape)) == (4, (48, 16))
