"""The decoder written as loops over heads and steps, for one row: slow, and easy to follow. And its many forms."""

import cmath
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.lm.attention import Attention
from model.lm.config import LanguageModelConfig
from model.lm.transformer import Layer, Transformer

WIDTH, HEADS = 16, 4
FORMS: dict[str, dict[str, Any]] = {
    "as published": {},
    "normed after": {"norm": "after"},
    "biases": {"attention_bias": True, "feedforward_bias": True},
    "rectified": {"activation": "relu", "feedforward_width": 24},
    "rotary": {"positions": "rotary"},
    "rotary and sinusoids": {"positions": "both", "position_period": 300.0},
    "fading": {"positions": "rotary", "xpos": True},
    "half turned": {"positions": "both", "xpos": True, "position_scale": 0.5},
    "layer scale": {"layer_scale": 0.1},
    "query-key norm": {"query_key_norm": True, "cross_query_key_norm": True},
    "grouped heads": {"key_value_heads": 2},
    "one head of keys": {"key_value_heads": 1},
    "past context": {"past_context": 3},
    "all together": {
        "norm": "after",
        "attention_bias": True,
        "feedforward_bias": True,
        "positions": "both",
        "xpos": True,
        "layer_scale": 0.5,
        "cross_query_key_norm": True,
        "key_value_heads": 2,
        "past_context": 4,
    },
}


def transformer(form: str = "as published", cross: bool = False, **changes: object) -> Transformer:
    """A small decoder whose biases, norms and scales are not at their initial values, so that they matter."""
    torch.manual_seed(0)
    sizes = {"width": WIDTH, "heads": HEADS, "layers": 2, "cross": ("description",) if cross else ()}
    made = Transformer(LanguageModelConfig.model_validate(sizes | FORMS[form] | changes)).eval()
    disturb(made)
    return made


def disturb(module: nn.Module) -> None:
    """Move all vectors away from their initial values."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)


def run_plainly(transformer: Transformer, inputs: Tensor, source: Tensor | None) -> Tensor:
    """Hidden states [S, D] of one row."""
    config = transformer.config
    hidden = inputs
    if config.positions != "rotary":
        hidden = hidden + config.position_scale * torch.stack(
            [_sinusoid(step, config.position_period) for step in range(len(inputs))]
        )
    for layer in transformer.layers:
        assert isinstance(layer, Layer)
        hidden = _layer(layer, hidden, source, config)
    return hidden


def _sinusoid(step: int, period: float) -> Tensor:
    half = WIDTH // 2
    phases = [step / period ** (place / (half - 1)) for place in range(half)]
    return torch.tensor([math.cos(phase) for phase in phases] + [math.sin(phase) for phase in phases])


def _layer(layer: Layer, inputs: Tensor, source: Tensor | None, config: LanguageModelConfig) -> Tensor:
    def scaled(added: Tensor, scale: Tensor | None) -> Tensor:
        return added if scale is None else scale * added

    def think(vectors: Tensor) -> Tensor:
        expanded = layer.expand(vectors)
        return layer.contract(F.gelu(expanded) if config.activation == "gelu" else expanded.clamp(min=0))

    def follow(vectors: Tensor) -> Tensor:
        assert layer.cross_attention is not None and source is not None  # noqa: PT018
        return _attention(layer.cross_attention, vectors, source, None)

    if config.norm == "before":
        normed = layer.self_norm(inputs)
        hidden = inputs + scaled(_attention(layer.self_attention, normed, normed, config), layer.self_scale)
        if layer.cross_norm is not None:
            hidden = hidden + scaled(follow(layer.cross_norm(hidden)), layer.cross_scale)
        return hidden + scaled(think(layer.feedforward_norm(hidden)), layer.feedforward_scale)
    attended = scaled(_attention(layer.self_attention, inputs, inputs, config), layer.self_scale)
    hidden = layer.self_norm(inputs + attended)
    if layer.cross_norm is not None:
        hidden = layer.cross_norm(hidden + scaled(follow(inputs), layer.cross_scale))
    return layer.feedforward_norm(hidden + scaled(think(hidden), layer.feedforward_scale))


def _attention(attention: Attention, inputs: Tensor, source: Tensor, config: LanguageModelConfig | None) -> Tensor:
    """Attention head by head and step by step; causal and rotated as `config` says, or over everything without one."""
    projection, size = attention.in_projection, WIDTH // HEADS
    assert isinstance(projection, nn.Linear)
    width = attention.key_value_heads * size
    weights = projection.weight.split([WIDTH, width, width])
    biases = [0.0, 0.0, 0.0] if projection.bias is None else list(projection.bias.split([WIDTH, width, width]))
    queries = attention.query_norm(inputs @ weights[0].T + biases[0])
    keys = attention.key_norm(source @ weights[1].T + biases[1])
    values = source @ weights[2].T + biases[2]
    mixed = torch.zeros_like(inputs)
    for head in range(HEADS):
        own = slice(head * size, (head + 1) * size)
        shared_head = head * attention.key_value_heads // HEADS
        shared = slice(shared_head * size, (shared_head + 1) * size)
        for step in range(len(inputs)):
            seen = range(len(source))
            if config is not None:
                seen = range(0 if config.past_context is None else max(0, step - config.past_context), step + 1)
            scores = torch.stack([_fit(queries[step, own], keys[key, shared], step, key, config) for key in seen])
            mixed[step, own] = (scores / size**0.5).softmax(0) @ values[seen.start : seen.stop, shared]
    return attention.out_projection(mixed)


def _fit(query: Tensor, key: Tensor, step: int, other: int, config: LanguageModelConfig | None) -> Tensor:
    """The product of a query and a key; with rotary positions pair by pair as complex numbers, by their distance."""
    if config is None or config.positions == "sinusoidal":
        return query @ key
    total, size = torch.zeros(()), len(query)
    for pair in range(size // 2):
        angle = config.position_period ** (-2 * pair / size)
        rate = (2 * pair / size + 0.4) / 1.4 if config.xpos else 1.0

        def factor(place: int, sign: int, angle: float = angle, rate: float = rate) -> complex:
            turned = cmath.exp(1j * place * angle) * rate ** (sign * place / 512)
            return turned * config.position_scale + 1 - config.position_scale

        between = factor(step, 1) * factor(other, -1).conjugate()
        (a, b), (c, d) = query[2 * pair : 2 * pair + 2], key[2 * pair : 2 * pair + 2]
        total = total + (a * c + b * d) * between.real + (a * d - b * c) * between.imag
    return total
