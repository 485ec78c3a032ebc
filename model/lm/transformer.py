"""The decoder of MusicGen: self-attention, cross-attention to conditions, feed-forward (arXiv:2306.05284, 3.1).

The defaults are as published: a norm before each part, no biases except those of the norms, exact GELU, and sinusoidal
positions over the whole sequence, prefixes included. AudioCraft's other forms are fields of the configuration. While
decoding, keys and values are in a `KVCache` that is allocated once; conditions are projected once.
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
    """Self-attention, cross-attention (if any) and feed-forward, each with a residual sum and a norm before or after.

    `self_scale`, `cross_scale` and `feedforward_scale` are the learned scales of what each part adds (layer scale,
    arXiv:2103.17239, 2); None without `layer_scale`.

    Args:
        config: sizes and options.
        number: the index of the layer, which is its index in caches.
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
            # With norms after, AudioCraft computes the queries of cross-attention from the layer's inputs, not from the
            # output of self-attention. Weights that were trained that way need it.
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
    """A stack of layers. Initial weights are Gaussian, with a deviation that falls with depth (AudioCraft: `gaussian`,
    `current`)."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False
        """Whether the activations of a layer are recomputed in the backward pass instead of kept: less memory, more
        time, the same numbers (arXiv:1604.06174)."""
        self.layers = nn.ModuleList(Layer(config, number) for number in range(config.layers))
        for depth, layer in enumerate(self.layers, start=1):
            for module in layer.modules():
                if isinstance(module, nn.Linear):
                    initialise(module, depth)

    def compile_layers(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compile each layer, forward and backward, when it is first called (`torch.compile`).

        Matrix products stay as they are; the operations between them become a few kernels. All layers share the code
        compiled for one. When the length of the conditions first changes, the code is compiled again, for any length.
        Copies of the model are not compiled, so decoding is not affected.

        Args:
            backend: what turns a graph of operators into code: torch's name for it, or a function.
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
            cross: conditions for cross-attention. With a cache, the conditions in the cache are used instead
                (`cache_cross_kv`).
            cross_mask: which vectors of `cross` are keys; all if None.
            cache: the cache to read and extend; the inputs are its next positions. Only an empty cache takes more than
                one position.

        Raises:
            ValueError: the cache is not empty, and there is more than one position.
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
        """Return hidden states of the next position of every row, and append this position to every cache.

        The caches together hold the rows of the inputs, in the same order. Each row attends only to its own cached
        steps, so that rows of different lengths can be decoded together.

        Raises:
            ValueError: the caches do not have as many rows as the inputs.
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
        """Do what `step` does, for rows whose numbers `at` of cached steps are only known on the device.

        Shapes depend only on `length`, the number of cached steps that are read. From a cache that is read in place,
        only each row's own steps are read, whatever `length` is. This method never reads the value of a tensor on the
        host, and does not update `cache.length`.
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
        """Return an empty cache for `rows` rows of up to `length` positions and `cross_length` condition vectors.

        Args:
            device: where the cache is; the device of the weights if None.
            precision: how keys and values are stored; `float32` is the precision of the weights, whatever it is.
        """
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
        """Make room for `length` positions. Earlier views of the cache's rows keep viewing the old, shorter tensors."""
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys.lengthened(length), layer.values.lengthened(length)
        cache.positions = positions(length, self.config, layer.keys.numbers.device)

    def cache_cross_kv(
        self, cache: KVCache, cross: Float[Tensor, "B L D"], cross_mask: Bool[Tensor, "B L"] | None = None
    ) -> None:
        """Project the conditions of the cache's rows once, into its first L positions; the rest stays masked.

        Args:
            cross_mask: which of the L vectors are keys; all if None.

        Raises:
            ValueError: the cache has room for fewer than L vectors.
        """
        length = cross.shape[1]
        if cache.cross_mask is None or length > cache.cross_mask.shape[-1]:
            raise ValueError(f"expected a cache with room for {length} condition vectors, got a smaller one")
        cache.cross_mask[:] = False
        cache.cross_mask[..., :length] = True if cross_mask is None else cross_mask[:, None, None]
        for layer in self.layers:
            assert isinstance(layer, Layer) and layer.cross_attention is not None  # noqa: PT018
            projected = layer.cross_attention.project_conditions(cross)
            for cached_vectors, vectors in zip(cache.cached_cross(layer.cross_attention.layer), projected, strict=True):
                assert isinstance(vectors, Tensor), "what was just projected is in no cache yet"
                cached_vectors.view(positions=slice(length)).write(vectors)


def _whole_span(mask: Bool[Tensor, "B 1 1 L"] | None) -> SpanMask | None:
    """Return a span over all condition vectors, in which a row sees those that `mask` allows; None without a mask."""
    if mask is None:
        return None
    first = torch.zeros(len(mask), dtype=torch.long, device=mask.device)
    return SpanMask(first, torch.full_like(first, mask.shape[-1]), mask)


def _as_added_scores(visible: Bool[Tensor, "B 1 1 L"], like: Float[Tensor, "B 1 D"]) -> Float[Tensor, "B 1 1 L"]:
    """Turn a mask into added scores (0 or minus infinity), which fused kernels read without a conversion in each
    layer."""
    return torch.zeros_like(visible, dtype=like.dtype).masked_fill(~visible, float("-inf"))


def initialise(module: nn.Linear | nn.Embedding, depth: int | None = None) -> None:
    """Draw weights from a truncated Gaussian of deviation 1 / sqrt(fan in), and set biases to zero.

    With a `depth`, the layer's number counted from 1, the deviation is divided by sqrt(2 * depth).
    """
    weight = module.weight
    deviation = weight.shape[-1] ** -0.5 / (1.0 if depth is None else (2 * depth) ** 0.5)
    nn.init.trunc_normal_(weight, 0.0, deviation, -3 * deviation, 3 * deviation)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
