"""The decoder of MusicGen: self-attention, cross-attention to conditions, feed-forward (arXiv:2306.05284, 3.1).

As published: norms before each part, no biases but theirs, exact GELU, sinusoidal positions over everything that is in
the sequence, prefixes included. AudioCraft's other forms are fields of the configuration. While decoding, keys and
values live in a `Cache` that is allocated once; those of the conditions are projected once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from model.kernels.packed_linear import ACTIVATIONS
from model.lm.attention import Attention, Cache, LayerCache, Places, Span, reach
from model.lm.config import LanguageModelConfig
from model.lm.positions import Rotation, positions


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What all layers of a pass have in common."""

    rotation: Rotation | None
    """Of queries and keys, where positions are rotary."""
    reach: Bool[Tensor, "1 1 S S"] | None
    """Which steps see which; None for plain causality."""
    source: Float[Tensor, "B L D"] | None
    """Conditions for cross-attention that are not remembered."""
    source_mask: Bool[Tensor, "B 1 1 L2"] | None
    """Which vectors of these are keys; None for all."""
    first: bool
    """Whether there is nothing before the inputs: else they are one step, after those remembered."""
    spans: Sequence[Span]
    """The rows of each cache, if there are caches."""
    places: Places | None = None
    """Where the rows of a step are, if their shapes must not follow from it; then there is one cache, and no span."""


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
        self.expand: nn.Module = nn.Linear(width, config.expanded_width, bias=config.feedforward_bias)
        self.contract: nn.Module = nn.Linear(config.expanded_width, width, bias=config.feedforward_bias)
        self.dropout = nn.Dropout(config.dropout)

        def scale(present: bool) -> nn.Parameter | None:
            initial = config.layer_scale
            return nn.Parameter(torch.full((width,), initial)) if present and initial is not None else None

        self.self_scale, self.cross_scale, self.feedforward_scale = scale(True), scale(cross), scale(True)

    def forward(
        self, inputs: Float[Tensor, "B S D"], surroundings: Surroundings, caches: Sequence[LayerCache]
    ) -> Float[Tensor, "B S D"]:
        if self.norm_first:
            hidden = inputs + self._self_attended(self.self_norm(inputs), surroundings, caches)
            if self.cross_norm is not None:
                hidden = hidden + self._cross_attended(self.cross_norm(hidden), surroundings, caches)
            return hidden + self._fed_forward(self.feedforward_norm(hidden))
        hidden = self.self_norm(inputs + self._self_attended(inputs, surroundings, caches))
        if self.cross_norm is not None:
            # AudioCraft's layers that are normed after ask the conditions with the layer's inputs, not with what self-
            # attention made of them; weights that were trained so need it.
            hidden = self.cross_norm(hidden + self._cross_attended(inputs, surroundings, caches))
        return self.feedforward_norm(hidden + self._fed_forward(hidden))

    def _self_attended(
        self, inputs: Float[Tensor, "B S D"], around: Surroundings, caches: Sequence[LayerCache]
    ) -> Float[Tensor, "B S D"]:
        """What self-attention adds."""
        if around.first:
            cache = caches[0] if caches else None
            attended = self.self_attention.over_self(inputs, around.rotation, around.reach, cache)
        elif around.places is not None:
            attended = self.self_attention.over_places(inputs, caches[0], around.places)
        else:
            attended = self.self_attention.over_remembered_steps(inputs, caches, around.spans)
        return _scaled(self.dropout(attended), self.self_scale)

    def _cross_attended(
        self, inputs: Float[Tensor, "B S D"], around: Surroundings, caches: Sequence[LayerCache]
    ) -> Float[Tensor, "B S D"]:
        """What the conditions add."""
        assert self.cross_attention is not None
        if around.places is not None:
            attended = self.cross_attention.over_source_of_places(inputs, caches[0], around.places)
        elif caches and caches[0].cross_keys is not None:
            attended = self.cross_attention.over_remembered_source(inputs, caches, around.spans)
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
        steps = inputs.shape[1]
        if cache is not None and cache.length:
            if steps != 1:
                raise ValueError(f"expected one position at a time after the first {cache.length}, got {steps}")
            return self.step(inputs, [cache])
        place = positions(steps, self.config, inputs.device) if cache is None else cache.positions.between(0, steps)
        plain = self.config.past_context is None if cache is None else steps == 1
        surroundings = Surroundings(
            place.rotation,
            None if plain else reach(steps, self.config.past_context, inputs.device),
            source,
            None if source_mask is None else source_mask[:, None, None],
            True,
            [] if cache is None else [Span(slice(None), 0, place.rotation, cache.cross_mask)],
        )
        hidden = inputs if place.sinusoids is None else inputs + place.sinusoids.to(inputs.dtype)
        for number, layer in enumerate(self.layers):
            if cache is not None:
                hidden = layer(hidden, surroundings, [cache.layers[number]])
            elif self.checkpointing and torch.is_grad_enabled():
                hidden = checkpoint(layer, hidden, surroundings, [], use_reentrant=False)
            else:
                hidden = layer(hidden, surroundings, [])
        if cache is not None:
            cache.length = steps
        return hidden

    def step(self, inputs: Float[Tensor, "B 1 D"], caches: Sequence[Cache]) -> Float[Tensor, "B 1 D"]:
        """Hidden states of one more position of every row, each where its cache ends; every cache grows by it.

        The caches have the inputs' rows in turn. Only what each remembers is attended to, so that rows that remember
        different numbers of steps go together.
        """
        spans, sinusoids, first = [], [], 0
        for cache in caches:
            rows = slice(first, first + len(cache.layers[0].keys))
            place = cache.positions.between(cache.length, cache.length + 1)
            spans.append(Span(rows, cache.length, place.rotation, cache.cross_mask))
            if place.sinusoids is not None:
                sinusoids.append(place.sinusoids.to(inputs.dtype).expand(rows.stop - rows.start, 1, -1))
            first = rows.stop
        if first != len(inputs):
            raise ValueError(f"expected caches of {len(inputs)} rows in all, as the inputs, got {first}")
        surroundings = Surroundings(None, None, None, None, False, spans)
        hidden = inputs + torch.cat(sinusoids) if sinusoids else inputs
        for number, layer in enumerate(self.layers):
            hidden = layer(hidden, surroundings, [cache.layers[number] for cache in caches])
        for cache in caches:
            cache.length += 1
        return hidden

    def step_at(
        self, inputs: Float[Tensor, "B 1 D"], cache: Cache, at: Int[Tensor, "B"], length: int
    ) -> Float[Tensor, "B 1 D"]:
        """`step` where each row remembers `at` steps, which only the device knows: the shapes follow from `length` of
        the cache, all that is read of it, alone. Nothing here looks at a value; the cache does not count."""
        place, past_context = cache.positions.at(at), self.config.past_context
        keys = torch.arange(length, device=at.device)
        seen = keys <= at[:, None]
        if past_context is not None:
            seen = seen & (keys >= at[:, None] - past_context)
        places = Places(
            torch.arange(len(at), device=at.device),
            at,
            length,
            _added_to_scores(seen[:, None, None], inputs),
            place.rotation,
            None if cache.cross_mask is None else _added_to_scores(cache.cross_mask, inputs),
        )
        surroundings = Surroundings(None, None, None, None, False, [], places)
        hidden = inputs if place.sinusoids is None else inputs + place.sinusoids.to(inputs.dtype)
        for layer, memory in zip(self.layers, cache.layers, strict=True):
            hidden = layer(hidden, surroundings, [memory])
        return hidden

    def allocate(self, rows: int, length: int, source_length: int, device: torch.device | None = None) -> Cache:
        """An empty cache for `rows` rows of up to `length` positions and condition vectors of `source_length`, on the
        weights' device unless another is given."""
        weight = next(self.parameters())
        heads, size = self.config.heads, self.config.width // self.config.heads
        device = weight.device if device is None else device

        def empty(heads: int, positions: int) -> Tensor:
            return weight.new_zeros((rows, heads, positions, size), device=device)

        layers = [
            LayerCache(
                empty(self.config.key_value_heads or heads, length),
                empty(self.config.key_value_heads or heads, length),
                empty(heads, source_length) if source_length else None,
                empty(heads, source_length) if source_length else None,
            )
            for _ in self.layers
        ]
        mask = torch.zeros((rows, 1, 1, source_length), dtype=torch.bool, device=device)
        return Cache(layers, positions(length, self.config, device), mask if source_length else None)

    def lengthen(self, cache: Cache, length: int) -> None:
        """Make room for `length` positions. Views of the cache's rows stay with what they were taken of."""
        kept = cache.layers[0].keys.shape[2]
        for layer in cache.layers:
            layer.keys, layer.values = (
                F.pad(remembered, (0, 0, 0, length - kept)) for remembered in (layer.keys, layer.values)
            )
        cache.positions = positions(length, self.config, layer.keys.device)

    def remember_source(
        self, cache: Cache, source: Float[Tensor, "B L D"], source_mask: Bool[Tensor, "B L"] | None = None
    ) -> None:
        """Project the conditions of the cache's rows once, into its first L places; the rest stays masked.

        Of the L vectors those are keys where `source_mask` is true; all without one.
        """
        length = source.shape[1]
        if cache.cross_mask is None or length > cache.cross_mask.shape[-1]:
            raise ValueError(f"expected a cache with room for {length} condition vectors, got a smaller one")
        cache.cross_mask[:] = False
        cache.cross_mask[..., :length] = True if source_mask is None else source_mask[:, None, None]
        for layer, memory in zip(self.layers, cache.layers, strict=True):
            assert isinstance(layer, Layer) and layer.cross_attention is not None  # noqa: PT018
            assert memory.cross_keys is not None and memory.cross_values is not None  # noqa: PT018
            keys, values = layer.cross_attention.project_source(source)
            memory.cross_keys[:, :, :length], memory.cross_values[:, :, :length] = keys, values


def _added_to_scores(seen: Bool[Tensor, "B 1 1 L"], like: Float[Tensor, "B 1 D"]) -> Float[Tensor, "B 1 1 L"]:
    """A mask in the form that fused kernels read without converting it anew in each layer."""
    return torch.zeros_like(seen, dtype=like.dtype).masked_fill(~seen, float("-inf"))


def initialise(module: nn.Linear | nn.Embedding, depth: int | None = None) -> None:
    """Truncated Gaussian of deviation 1 / sqrt(fan in), in layer `depth` divided by sqrt(2 * depth); biases zero."""
    weight = module.weight
    deviation = weight.shape[-1] ** -0.5 / (1.0 if depth is None else (2 * depth) ** 0.5)
    nn.init.trunc_normal_(weight, 0.0, deviation, -3 * deviation, 3 * deviation)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
