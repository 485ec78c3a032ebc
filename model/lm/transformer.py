"""The decoder of MusicGen: self-attention, cross-attention to conditions, feed-forward (arXiv:2306.05284, 3.1).

As published: norms before each part, no biases but theirs, exact GELU, sinusoidal positions over everything that is in
the sequence, prefixes included. AudioCraft's other forms are fields of the configuration. While decoding, keys and
values live in a `KVCache` that is allocated once; those of the conditions are projected once.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.kernels.cached_attention import SpanMask, attends_in_cache
from model.lm.attention import (
    AttentionInputs,
    CachePositions,
    CacheSegment,
    CrossAttention,
    CrossMask,
    KVCache,
    LayerCache,
    Mask,
    SelfAttention,
    Uncached,
    causal_mask,
)
from model.lm.cached_vectors import CachedVectors
from model.lm.config import CachePrecision, LanguageModelConfig
from model.lm.positions import positions


class Layer(nn.Module):
    """Self-attention, cross-attention (if any), feed-forward, each added to what goes in, and normed before or after.

    `self_scale` and the like are the learned scales of what is added (layer scale, arXiv:2103.17239, 2), if any.

    Args:
        config: sizes and options.
        number: of the layer, by which caches know it.
    """

    def __init__(self, config: LanguageModelConfig, number: int) -> None:
        super().__init__()
        width, cross = config.width, bool(config.cross)
        self.norm_first = config.norm == "before"
        self.self_norm = nn.LayerNorm(width)
        self.self_attention = SelfAttention(config, number)
        self.cross_norm = nn.LayerNorm(width) if cross else None
        self.cross_attention = CrossAttention(config, number) if cross else None
        self.feedforward_norm = nn.LayerNorm(width)
        self.expand: nn.Module = nn.Linear(width, config.expanded_width, bias=config.feedforward_bias)
        self.activation: nn.Module = nn.GELU() if config.activation == "gelu" else nn.ReLU()
        self.contract: nn.Module = nn.Linear(config.expanded_width, width, bias=config.feedforward_bias)
        self.dropout = nn.Dropout(config.dropout)

        def scale(present: bool) -> nn.Parameter | None:
            initial = config.layer_scale
            return nn.Parameter(torch.full((width,), initial)) if present and initial is not None else None

        self.self_scale, self.cross_scale, self.feedforward_scale = scale(True), scale(cross), scale(True)

    def forward(self, inputs: Float[Tensor, "B S D"], shared: AttentionInputs) -> Float[Tensor, "B S D"]:
        if self.norm_first:
            hidden = inputs + self._drop_and_scale(self.self_attention(self.self_norm(inputs), shared), self.self_scale)
            if self.cross_attention is not None and self.cross_norm is not None:
                attended = self.cross_attention(self.cross_norm(hidden), shared)
                hidden = hidden + self._drop_and_scale(attended, self.cross_scale)
            return hidden + self._feed_forward(self.feedforward_norm(hidden))
        hidden = self.self_norm(inputs + self._drop_and_scale(self.self_attention(inputs, shared), self.self_scale))
        if self.cross_attention is not None and self.cross_norm is not None:
            # AudioCraft's layers that are normed after ask the conditions with the layer's inputs, not with what self-
            # attention made of them; weights that were trained so need it.
            attended = self.cross_attention(inputs, shared)
            hidden = self.cross_norm(hidden + self._drop_and_scale(attended, self.cross_scale))
        normed: Tensor = self.feedforward_norm(hidden + self._feed_forward(hidden))
        return normed

    def _feed_forward(self, inputs: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        expanded = self.dropout(self.activation(self.expand(inputs)))
        return self._drop_and_scale(self.contract(expanded), self.feedforward_scale)

    def _drop_and_scale(
        self, added: Float[Tensor, "B S D"], scale: Float[Tensor, "D"] | None
    ) -> Float[Tensor, "B S D"]:
        dropped: Tensor = self.dropout(added)
        return dropped if scale is None else dropped * scale


class Transformer(nn.Module):
    """A stack of layers. Weights start Gaussian, narrower with depth (AudioCraft: `gaussian`, `current`)."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False
        """Whether a layer's activations are computed anew for the gradient instead of kept: less memory, more time, the
        same numbers (arXiv:1604.06174)."""
        self.layers = nn.ModuleList(Layer(config, number) for number in range(config.layers))
        for depth, layer in enumerate(self.layers, start=1):
            for module in layer.modules():
                if isinstance(module, nn.Linear):
                    initialise(module, depth)

    def compile_layers(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Have each layer compiled, and its gradient, when it is first called (`torch.compile`): products stay what
        they are, and what stands between them becomes a few kernels.

        All layers share what is made of one; another length of the conditions makes it anew, for any length. Copies of
        the model are not compiled, so nothing of this reaches decoding.

        Args:
            backend: what turns a graph of operators into code, by torch's name or itself.
        """
        for layer in self.layers:
            layer.compile(backend=backend)

    def forward(
        self,
        inputs: Float[Tensor, "B S D"],
        cross: Float[Tensor, "B L D"] | None = None,
        cross_mask: Bool[Tensor, "B L"] | None = None,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "B S D"]:
        """Return hidden states of the inputs, which attend causally to each other and to the conditions.

        Args:
            cross: conditions for cross-attention; with a cache it is the cache that holds them (`cache_cross_kv`).
            cross_mask: which vectors of `cross` are keys; all without one.
            cache: the inputs are its next positions (many only as its first), and it grows by them.
        """
        steps = inputs.shape[1]
        if cache is None:
            position = positions(steps, self.config, inputs.device)
            mask: Mask = "causal" if self.config.past_context is None else self._causal_mask(inputs)
            keys = None if cross_mask is None else cross_mask[:, None, None]
            segment = CacheSegment(slice(None), Uncached(cross), position.rotation, mask, keys)
            shared = AttentionInputs([segment])
        elif cache.length == 0:
            position = cache.positions.between(0, steps)
            mask = None if steps == 1 else self._causal_mask(inputs)
            segment = CacheSegment(slice(None), cache, position.rotation, mask, cache.cross_mask)
            shared = AttentionInputs([segment], batch_invariant=True)
        elif steps == 1:
            return self.step(inputs, [cache])
        else:
            raise ValueError(f"expected one position at a time after the first {cache.length}, got {steps}")
        hidden = inputs if position.sinusoids is None else inputs + position.sinusoids.to(inputs.dtype)
        for layer in self.layers:
            if self.checkpointing and cache is None and torch.is_grad_enabled():
                hidden = checkpoint(layer, hidden, shared, use_reentrant=False)
            else:
                hidden = layer(hidden, shared)
        if cache is not None:
            cache.length = steps
        return hidden

    def _causal_mask(self, inputs: Float[Tensor, "B S D"]) -> Bool[Tensor, "1 1 S S"]:
        return causal_mask(inputs.shape[1], self.config.past_context, inputs.device)

    def step(self, inputs: Float[Tensor, "B 1 D"], caches: Sequence[KVCache]) -> Float[Tensor, "B 1 D"]:
        """Return hidden states of one more position of every row, each where its cache ends; every cache grows by it.

        The caches have the inputs' rows in turn. Each row attends to its own cached steps alone, so that rows of
        different lengths go together.
        """
        segments, sinusoids, first = [], [], 0
        for cache in caches:
            rows = slice(first, first + len(cache.layers[0].keys.numbers))
            position = cache.positions.between(cache.length, cache.length + 1)
            segments.append(CacheSegment(rows, cache, position.rotation, None, cache.cross_mask))
            if position.sinusoids is not None:
                sinusoids.append(position.sinusoids.to(inputs.dtype).expand(rows.stop - rows.start, 1, -1))
            first = rows.stop
        if first != len(inputs):
            raise ValueError(f"expected caches of {len(inputs)} rows in all, as the inputs, got {first}")
        shared = AttentionInputs(segments, batch_invariant=True)
        hidden = inputs + torch.cat(sinusoids) if sinusoids else inputs
        for layer in self.layers:
            hidden = layer(hidden, shared)
        for cache in caches:
            cache.length += 1
        return hidden

    def step_at(
        self, inputs: Float[Tensor, "B 1 D"], cache: KVCache, at: Int[Tensor, "B"], length: int
    ) -> Float[Tensor, "B 1 D"]:
        """Do what `step` does where `at` steps of each row are cached, which only the device knows.

        The shapes follow from `length`, the steps of the cache that are read, alone; one that is read in place has each
        row's own steps read, whatever the length. Nothing here looks at a value of a tensor; the cache does not count
        its length.
        """
        position, past_context = cache.positions.at(at), self.config.past_context
        first = torch.zeros_like(at) if past_context is None else (at - past_context).clamp(min=0)
        mask: Mask
        cross_mask: CrossMask
        if cache.read_in_place:
            mask, cross_mask = SpanMask(first, at + 1), _whole_span(cache.cross_mask)
        else:
            steps = torch.arange(length, device=at.device)
            visible = (steps >= first[:, None]) & (steps <= at[:, None])
            mask = _as_added_scores(visible[:, None, None], inputs)
            cross_mask = None if cache.cross_mask is None else _as_added_scores(cache.cross_mask, inputs)
        positions = CachePositions(cache, torch.arange(len(at), device=at.device), at, length)
        segment = CacheSegment(slice(None), positions, position.rotation, mask, cross_mask)
        hidden = inputs if position.sinusoids is None else inputs + position.sinusoids.to(inputs.dtype)
        for layer in self.layers:
            hidden = layer(hidden, AttentionInputs([segment]))
        return hidden

    def allocate(
        self,
        rows: int,
        length: int,
        cross_length: int,
        device: torch.device | None = None,
        precision: CachePrecision = "float32",
    ) -> KVCache:
        """Return an empty cache for `rows` rows of up to `length` positions and `cross_length` condition vectors, on
        the weights' device unless another is given, in the weights' precision unless in less."""
        weight = next(self.parameters())
        heads, size = self.config.heads, self.config.width // self.config.heads
        device = weight.device if device is None else device

        def empty(heads: int, positions: int) -> CachedVectors:
            return CachedVectors.empty((rows, heads, positions, size), precision, weight.dtype, device)

        layers = [
            LayerCache(
                empty(self.config.key_value_heads or heads, length),
                empty(self.config.key_value_heads or heads, length),
                empty(heads, cross_length) if cross_length else None,
                empty(heads, cross_length) if cross_length else None,
            )
            for _ in self.layers
        ]
        mask = torch.zeros((rows, 1, 1, cross_length), dtype=torch.bool, device=device) if cross_length else None
        in_place = attends_in_cache(device, size)
        return KVCache(
            layers, positions(length, self.config, device), self.config.past_context, mask, read_in_place=in_place
        )

    def lengthen(self, cache: KVCache, length: int) -> None:
        """Make room for `length` positions. Views of the cache's rows stay with what they were taken of."""
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys.lengthened(length), layer.values.lengthened(length)
        cache.positions = positions(length, self.config, layer.keys.numbers.device)

    def cache_cross_kv(
        self, cache: KVCache, cross: Float[Tensor, "B L D"], cross_mask: Bool[Tensor, "B L"] | None = None
    ) -> None:
        """Project the conditions of the cache's rows once, into its first L positions; the rest stays masked.

        Of the L vectors those are keys where `cross_mask` is true; all without one.
        """
        length = cross.shape[1]
        if cache.cross_mask is None or length > cache.cross_mask.shape[-1]:
            raise ValueError(f"expected a cache with room for {length} condition vectors, got a smaller one")
        cache.cross_mask[:] = False
        cache.cross_mask[..., :length] = True if cross_mask is None else cross_mask[:, None, None]
        for layer in self.layers:
            assert isinstance(layer, Layer) and layer.cross_attention is not None  # noqa: PT018
            projected = layer.cross_attention.project_conditions(cross)
            for kept, vectors in zip(cache.cached_cross(layer.cross_attention.layer), projected, strict=True):
                assert isinstance(vectors, Tensor), "what was just projected is in no cache yet"
                kept.view(positions=slice(length)).write(vectors)


def _whole_span(mask: Bool[Tensor, "B 1 1 L"] | None) -> SpanMask | None:
    """Return the span of all condition vectors, of which a row sees those that are not masked."""
    if mask is None:
        return None
    first = torch.zeros(len(mask), dtype=torch.long, device=mask.device)
    return SpanMask(first, torch.full_like(first, mask.shape[-1]), mask)


def _as_added_scores(visible: Bool[Tensor, "B 1 1 L"], like: Float[Tensor, "B 1 D"]) -> Float[Tensor, "B 1 1 L"]:
    """Bring a mask into the form that fused kernels read without converting it anew in each layer."""
    return torch.zeros_like(visible, dtype=like.dtype).masked_fill(~visible, float("-inf"))


def initialise(module: nn.Linear | nn.Embedding, depth: int | None = None) -> None:
    """Set weights by a truncated Gaussian of deviation 1 / sqrt(fan in), in layer `depth` divided by sqrt(2 * depth),
    and biases to zero."""
    weight = module.weight
    deviation = weight.shape[-1] ** -0.5 / (1.0 if depth is None else (2 * depth) ** 0.5)
    nn.init.trunc_normal_(weight, 0.0, deviation, -3 * deviation, 3 * deviation)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
