"""The decoder of MusicGen: self-attention, cross-attention to conditions, feed-forward (arXiv:2306.05284, 3.1).

As published: norms before each part, no biases but theirs, exact GELU, sinusoidal positions over everything that is in
the sequence, prefixes included. AudioCraft's other forms are fields of the configuration. While decoding, keys and
values live in a `Cache` that is allocated once; those of the conditions are projected once.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from model.attention import Attention, Cache, LayerCache, reach
from model.configuration import LanguageModelConfig
from model.positions import Rotation, positions

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu}


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What all layers of a pass have in common."""

    rotation: Rotation | None
    """Of queries and keys, where positions are rotary."""
    reach: Bool[Tensor, "1 1 S S"] | None
    """Which steps see which; None for plain causality, or for a single step after those remembered."""
    source: Float[Tensor, "B L D"] | None
    """Conditions for cross-attention that are not remembered."""
    source_mask: Bool[Tensor, "B 1 1 L2"] | None
    """Which vectors of the conditions, given or remembered, are keys; None for all."""
    start: int
    """Steps that are remembered."""


class Layer(nn.Module):
    """Self-attention, cross-attention (if any), feed-forward, each added to what goes in, and normed before or after.

    `self_scale` and the like are the learned scales of what is added (layer scale, arXiv:2103.17239, 2), if any.
    """

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        width, cross = config.width, bool(config.cross)
        self.norm_first, self.activation = config.norm == "before", ACTIVATIONS[config.activation]
        self.self_norm = nn.LayerNorm(width)
        self.self_attention = Attention(config, cross=False)
        self.cross_norm = nn.LayerNorm(width) if cross else None
        self.cross_attention = Attention(config, cross=True) if cross else None
        self.feedforward_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, config.expanded_width, bias=config.feedforward_bias)
        self.contract = nn.Linear(config.expanded_width, width, bias=config.feedforward_bias)
        self.dropout = nn.Dropout(config.dropout)

        def scale(present: bool) -> nn.Parameter | None:
            initial = config.layer_scale
            return nn.Parameter(torch.full((width,), initial)) if present and initial is not None else None

        self.self_scale, self.cross_scale, self.feedforward_scale = scale(True), scale(cross), scale(True)

    def forward(
        self, inputs: Float[Tensor, "B S D"], surroundings: Surroundings, cache: LayerCache | None
    ) -> Float[Tensor, "B S D"]:
        if self.norm_first:
            hidden = inputs + self._self_attended(self.self_norm(inputs), surroundings, cache)
            if self.cross_norm is not None:
                hidden = hidden + self._cross_attended(self.cross_norm(hidden), surroundings, cache)
            return hidden + self._fed_forward(self.feedforward_norm(hidden))
        hidden = self.self_norm(inputs + self._self_attended(inputs, surroundings, cache))
        if self.cross_norm is not None:
            # AudioCraft's layers that are normed after ask the conditions with the layer's inputs, not with what self-
            # attention made of them; weights that were trained so need it.
            hidden = self.cross_norm(hidden + self._cross_attended(inputs, surroundings, cache))
        return self.feedforward_norm(hidden + self._fed_forward(hidden))

    def _self_attended(
        self, inputs: Float[Tensor, "B S D"], around: Surroundings, cache: LayerCache | None
    ) -> Float[Tensor, "B S D"]:
        """What self-attention adds."""
        attended = self.self_attention.over_self(inputs, around.rotation, around.reach, cache, around.start)
        return _scaled(self.dropout(attended), self.self_scale)

    def _cross_attended(
        self, inputs: Float[Tensor, "B S D"], around: Surroundings, cache: LayerCache | None
    ) -> Float[Tensor, "B S D"]:
        """What the conditions add."""
        assert self.cross_attention is not None
        if cache is not None and cache.cross_keys is not None and cache.cross_values is not None:
            attended = self.cross_attention.over_remembered(
                inputs, cache.cross_keys, cache.cross_values, around.source_mask
            )
        elif around.source is not None:
            attended = self.cross_attention.over_source(inputs, around.source, around.source_mask)
        else:
            raise ValueError("expected a source for cross-attention, got none")
        return _scaled(self.dropout(attended), self.cross_scale)

    def _fed_forward(self, inputs: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        """What the feed-forward part adds."""
        expanded = self.dropout(self.activation(self.expand(inputs)))
        return _scaled(self.dropout(self.contract(expanded)), self.feedforward_scale)


def _scaled(added: Float[Tensor, "B S D"], scale: Float[Tensor, "D"] | None) -> Float[Tensor, "B S D"]:
    return added if scale is None else added * scale


class Transformer(nn.Module):
    """A stack of layers. Weights start Gaussian, narrower with depth (AudioCraft: `gaussian`, `current`)."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False
        """Whether a layer's activations are computed anew for the gradient instead of kept: less memory, more time, the
        same numbers (arXiv:1604.06174)."""
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        for depth, layer in enumerate(self.layers, start=1):
            for module in layer.modules():
                if isinstance(module, nn.Linear):
                    initialise(module, depth)

    def forward(
        self,
        inputs: Float[Tensor, "B S D"],
        source: Float[Tensor, "B L D"] | None = None,
        source_mask: Bool[Tensor, "B L"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "B S D"]:
        """Hidden states of the inputs, which attend causally to each other, and to `source` where the mask is true.

        With a cache, the inputs are its next positions (many only as its first), and it grows by them.
        """
        start = 0 if cache is None else cache.length
        steps = inputs.shape[1]
        if start and steps != 1:
            raise ValueError(f"expected one position at a time after the first {start}, got {steps}")
        if cache is None:
            place = positions(steps, self.config, inputs.device)
            plain = self.config.past_context is None
        else:
            place = cache.positions.between(start, start + steps)
            plain = steps == 1
        surroundings = Surroundings(
            place.rotation,
            None if plain else reach(steps, self.config.past_context, inputs.device),
            source,
            cache.cross_mask if cache is not None else None if source_mask is None else source_mask[:, None, None],
            start,
        )
        hidden = inputs if place.sinusoids is None else inputs + place.sinusoids.to(inputs.dtype)
        for number, layer in enumerate(self.layers):
            if cache is not None:
                hidden = layer(hidden, surroundings, cache.layers[number])
            elif self.checkpointing and torch.is_grad_enabled():
                hidden = checkpoint(layer, hidden, surroundings, None, use_reentrant=False)
            else:
                hidden = layer(hidden, surroundings, None)
        if cache is not None:
            cache.length = start + steps
        return hidden

    def allocate(self, rows: int, length: int, source_length: int) -> Cache:
        """An empty cache for `rows` rows of up to `length` positions and condition vectors of `source_length`."""
        weight = next(self.parameters())
        heads, size = self.config.heads, self.config.width // self.config.heads

        def empty(heads: int, positions: int) -> Tensor:
            return weight.new_zeros((rows, heads, positions, size))

        layers = [
            LayerCache(
                empty(self.config.key_value_heads or heads, length),
                empty(self.config.key_value_heads or heads, length),
                empty(heads, source_length) if source_length else None,
                empty(heads, source_length) if source_length else None,
            )
            for _ in self.layers
        ]
        mask = torch.zeros((rows, 1, 1, source_length), dtype=torch.bool, device=weight.device)
        return Cache(layers, positions(length, self.config, weight.device), mask if source_length else None)

    def remember_source(
        self, cache: Cache, source: Float[Tensor, "B L D"], source_mask: Bool[Tensor, "B L"] | None = None
    ) -> None:
        """Project the conditions of the cache's rows once, into its first L places; the rest stays masked.

        Of the L vectors those are keys where `source_mask` is true; all without one.
        """
        length = source.shape[1]
        if cache.cross_mask is None or length > cache.cross_mask.shape[-1]:
            raise ValueError(f"expected a cache with room for {length} condition vectors, got a smaller one")
        cache.cross_mask[..., :length] = True if source_mask is None else source_mask[:, None, None]
        for layer, memory in zip(self.layers, cache.layers, strict=True):
            assert isinstance(layer, Layer) and layer.cross_attention is not None  # noqa: PT018
            assert memory.cross_keys is not None and memory.cross_values is not None  # noqa: PT018
            keys, values = layer.cross_attention.project_source(source)
            memory.cross_keys[:, :, :length], memory.cross_values[:, :, :length] = keys, values


def initialise(module: nn.Linear | nn.Embedding, depth: int | None = None) -> None:
    """Truncated Gaussian of deviation 1 / sqrt(fan in), in layer `depth` divided by sqrt(2 * depth); biases zero."""
    weight = module.weight
    deviation = weight.shape[-1] ** -0.5 / (1.0 if depth is None else (2 * depth) ** 0.5)
    nn.init.trunc_normal_(weight, 0.0, deviation, -3 * deviation, 3 * deviation)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
