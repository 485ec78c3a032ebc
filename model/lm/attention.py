"""Multi-head attention, over the sequence itself and over conditions, with a cache and without (arXiv:1706.03762, 3.2).

All attention is computed by `attend(q, k, v, mask)`. The cache determines which keys and values it gets. `Uncached`
returns those of the current pass. `KVCache` appends them to the earlier ones (as `transformers.DynamicCache` does).
`CachePositions` writes them at each row's own position, in shapes that never change (as `transformers.StaticCache`).

Keys and values may have fewer heads than queries, each shared by a group of query heads (grouped-query attention,
arXiv:2305.13245). Queries and keys may be normed, so that their products stay bounded (arXiv:2302.05442, 2).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from model import kernels
from model.kernels.attention import attention_by_products, batch_invariant_attention, prefers_products
from model.kernels.cached_attention import SpanMask, attend_in_cache
from model.kernels.float32_products import OneDnnLinear, multiply
from model.lm.cached_vectors import CachedVectors
from model.lm.config import LanguageModelConfig
from model.lm.positions import Positions, Rotation

Mask = Bool[Tensor, "#B 1 #S L"] | Float[Tensor, "#B 1 1 L"] | Literal["causal"] | SpanMask | None
"""Which keys a query sees: the true ones of a boolean mask; those whose added score is 0, not minus infinity; those up
to its own step ("causal"); those of a span of a cache; or all (None)."""
CrossMask = Bool[Tensor, "#B 1 1 L2"] | Float[Tensor, "#B 1 1 L2"] | SpanMask | None
"""Which condition vectors a query sees, in the same forms."""


def attend(
    queries: Float[Tensor, "B H S E"],
    keys: Float[Tensor, "B G L E"] | CachedVectors,
    values: Float[Tensor, "B G L E"] | CachedVectors,
    mask: Mask,
    batch_invariant: bool = False,
    dropout: float = 0.0,
) -> Float[Tensor, "B H S E"]:
    """Return the values averaged by attention weights, computed by the fastest backend for the case.

    Args:
        keys, values: tensors; with a `SpanMask`, the cached vectors themselves, which are read in place.
        batch_invariant: whether the bits of a row must not depend on the other rows; `mask` must not be "causal" then.
        dropout: share of the attention weights that is dropped.
    """
    if isinstance(mask, SpanMask):
        assert isinstance(keys, CachedVectors) and isinstance(values, CachedVectors)  # noqa: PT018
        return attend_in_cache(queries, keys, values, mask)
    assert isinstance(keys, Tensor) and isinstance(values, Tensor)  # noqa: PT018
    causal = isinstance(mask, str)
    tensor = None if isinstance(mask, str) else mask
    if batch_invariant and kernels.enabled():
        return batch_invariant_attention(queries, keys, values, tensor)
    if not dropout and prefers_products(queries, keys, tensor):
        return attention_by_products(queries, keys, values, tensor, causal)
    grouped = keys.shape[1] < queries.shape[1]
    if grouped and queries.shape[2] == 1 and not causal:
        # The queries of a group become steps of one head, so that the group's keys are read once.
        by_group = queries.reshape(len(queries), keys.shape[1], -1, queries.shape[-1])
        return F.scaled_dot_product_attention(by_group, keys, values, tensor, dropout).reshape(queries.shape)
    return F.scaled_dot_product_attention(queries, keys, values, tensor, dropout, is_causal=causal, enable_gqa=grouped)


def causal_mask(steps: int, past_context: int | None, device: torch.device) -> Bool[Tensor, "1 1 {steps} {steps}"]:
    """Return which steps each step sees: itself and the steps before it, at most the last `past_context` of these."""
    visible = torch.ones((steps, steps), dtype=torch.bool, device=device).tril()
    if past_context is not None:
        visible = visible.triu(-past_context)
    return visible[None, None]


class KeysValues(NamedTuple):
    """Keys and values, split into heads."""

    keys: Float[Tensor, "B G L E"] | CachedVectors
    values: Float[Tensor, "B G L E"] | CachedVectors


@dataclass
class LayerCache:
    """The cached keys and values of one layer: those of the sequence, with G heads, and those of the conditions."""

    keys: CachedVectors
    values: CachedVectors
    cross_keys: CachedVectors | None = None
    cross_values: CachedVectors | None = None

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        parts = (self.keys, self.values, self.cross_keys, self.cross_values)
        return sum(part.nbytes for part in parts if part is not None)


@dataclass
class KVCache:
    """The keys and values of a decoding run."""

    layers: list[LayerCache]
    positions: Positions
    past_context: int | None = None
    """How many earlier steps a step sees; None is all of them."""
    cross_mask: Bool[Tensor, "B 1 1 L"] | None = None
    """Which condition vectors belong to a row; the rest pads rows to a common length."""
    length: int = 0
    """Number of positions that are filled."""
    read_in_place: bool = False
    """Whether `Transformer.step_at` reads keys and values in the cache itself, not in copies."""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return sum(layer.nbytes for layer in self.layers)

    def update(self, layer: int, keys: Float[Tensor, "B G S E"], values: Float[Tensor, "B G S E"]) -> KeysValues:
        """Write the keys and values of a layer's next steps; return all keys and values that these steps may see."""
        cached, stop = self.layers[layer], self.length + keys.shape[2]
        cached.keys.view(positions=slice(self.length, stop)).write(keys)
        cached.values.view(positions=slice(self.length, stop)).write(values)
        if self.length == 0:  # nothing else is cached, and the new tensors are faster to read
            return KeysValues(keys, values)
        first = 0 if self.past_context is None else max(0, self.length - self.past_context)
        visible = slice(first, stop)
        return KeysValues(cached.keys.view(positions=visible).read(), cached.values.view(positions=visible).read())

    def cross(self, attention: "CrossAttention") -> KeysValues:
        """Return the keys and values of the conditions, which `Transformer.cache_cross_kv` wrote."""
        keys, values = self.cached_cross(attention.layer)
        return KeysValues(keys.read(), values.read())

    def cached_cross(self, layer: int) -> tuple[CachedVectors, CachedVectors]:
        """Return the keys and values of a layer's conditions in the form in which they are stored."""
        cached = self.layers[layer]
        assert cached.cross_keys is not None and cached.cross_values is not None  # noqa: PT018
        return cached.cross_keys, cached.cross_values

    def rows(self, start: int, stop: int, cross_length: int | None = None) -> "KVCache":
        """Return a view of some rows and their first `cross_length` condition vectors (all if None).

        Writes to the view change this cache. The view starts with this cache's `length` and then counts its own.
        """
        cut = slice(start, stop)
        layers = [
            LayerCache(
                layer.keys.view(cut),
                layer.values.view(cut),
                None if layer.cross_keys is None else layer.cross_keys.view(cut, slice(cross_length)),
                None if layer.cross_values is None else layer.cross_values.view(cut, slice(cross_length)),
            )
            for layer in self.layers
        ]
        mask = None if self.cross_mask is None else self.cross_mask[cut, ..., :cross_length]
        return KVCache(layers, self.positions, self.past_context, mask, self.length)


@dataclass(frozen=True, eq=False)
class CachePositions:
    """A cache in which each row is at its own position, which only the device knows, so that no shape depends on it."""

    cache: KVCache
    rows: Int[Tensor, "B"]
    """Indexes of the rows."""
    at: Int[Tensor, "B"]
    """Number of cached steps of each row."""
    length: int
    """Number of steps of the cache that are read; greater than every entry of `at`."""

    def update(self, layer: int, keys: Float[Tensor, "B G 1 E"], values: Float[Tensor, "B G 1 E"]) -> KeysValues:
        """Write the keys and values of each row's next step; return those of the first `length` steps.

        The mask of attention hides steps that a row does not have. A cache that is read in place returns its own
        `CachedVectors`.
        """
        cached, index = self.cache.layers[layer], (self.rows, slice(None), self.at)
        cached.keys.write(keys[:, :, 0], index)
        cached.values.write(values[:, :, 0], index)
        if self.cache.read_in_place:
            return KeysValues(cached.keys, cached.values)
        visible = slice(self.length)
        return KeysValues(cached.keys.view(positions=visible).read(), cached.values.view(positions=visible).read())

    def cross(self, attention: "CrossAttention") -> KeysValues:
        """Return the keys and values of the conditions; the cache's own `CachedVectors` if it is read in place."""
        return (
            KeysValues(*self.cache.cached_cross(attention.layer))
            if self.cache.read_in_place
            else self.cache.cross(attention)
        )


@dataclass(frozen=True, eq=False)
class Uncached:
    """The cache of a pass that caches nothing, as in training."""

    conditions: Float[Tensor, "B L D"] | None
    """Vectors that cross-attention reads."""

    def update(self, layer: int, keys: Float[Tensor, "B G S E"], values: Float[Tensor, "B G S E"]) -> KeysValues:
        """Return the given keys and values."""
        return KeysValues(keys, values)

    def cross(self, attention: "CrossAttention") -> KeysValues:
        """Return the keys and values of the conditions, projected now. Raises ValueError without conditions."""
        if self.conditions is None:
            raise ValueError("expected conditions for cross-attention, got none")
        return attention.project_conditions(self.conditions)


@dataclass(frozen=True, eq=False)
class CacheSegment:
    """Rows of a pass that share a cache and its length, so that their attention is computed together."""

    rows: slice
    """The rows within the pass."""
    cache: KVCache | CachePositions | Uncached
    rotation: Rotation | None
    """Rotation of the queries and keys; None without rotary positions."""
    mask: Mask
    """Which steps the queries see."""
    cross_mask: CrossMask
    """Which condition vectors the queries see."""


@dataclass(frozen=True, eq=False)
class AttentionInputs:
    """The inputs of attention that all layers of a pass share."""

    segments: Sequence[CacheSegment]
    """All rows of the pass, in order."""
    batch_invariant: bool = False
    """Whether the bits of a row must not depend on the other rows."""


class Attention(nn.Module):
    """The projections of attention: one matrix for queries, keys and values, in this order, and one for the output.

    Args:
        config: sizes and options.
        layer: the index of the layer, also in caches.
        cross: whether keys and values come from conditions, not from the sequence.
    """

    def __init__(self, config: LanguageModelConfig, layer: int, cross: bool) -> None:
        super().__init__()
        self.width, self.heads, self.layer = config.width, config.heads, layer
        self.key_value_heads = config.heads if cross or config.key_value_heads is None else config.key_value_heads
        self.dropout = config.dropout if config.attention_dropout is None else config.attention_dropout
        self.key_width = config.width // config.heads * self.key_value_heads
        self.in_projection: nn.Module = nn.Linear(
            config.width, config.width + 2 * self.key_width, bias=config.attention_bias
        )
        self.out_projection: nn.Module = nn.Linear(config.width, config.width, bias=config.attention_bias)
        normed = config.cross_query_key_norm if cross else config.query_key_norm
        self.query_norm: nn.Module = nn.LayerNorm(config.width) if normed else nn.Identity()
        self.key_norm: nn.Module = nn.LayerNorm(self.key_width) if normed else nn.Identity()

    def split_heads(self, projected: Float[Tensor, "B S X"]) -> Float[Tensor, "B H S E"]:
        """Split vectors into heads."""
        rows, steps, width = projected.shape
        size = self.width // self.heads
        return projected.view(rows, steps, width // size, size).transpose(1, 2)

    def merge(self, segments: list[Float[Tensor, "_ H S E"]]) -> Float[Tensor, "B S D"]:
        """Concatenate the rows of all segments and the heads of each row, and apply the output projection."""
        merged = [attended.transpose(1, 2).flatten(2) for attended in segments]
        projected: Tensor = self.out_projection(merged[0] if len(merged) == 1 else torch.cat(merged))
        return projected


class SelfAttention(Attention):
    """Causal attention of the steps of a sequence to each other and to cached earlier steps."""

    def __init__(self, config: LanguageModelConfig, layer: int) -> None:
        super().__init__(config, layer, cross=False)

    def forward(self, inputs: Float[Tensor, "B S D"], shared: AttentionInputs) -> Float[Tensor, "B S D"]:
        projected = self.in_projection(inputs).split([self.width, self.key_width, self.key_width], -1)
        all_queries = self.split_heads(self.query_norm(projected[0]))
        all_keys, all_values = self.split_heads(self.key_norm(projected[1])), self.split_heads(projected[2])
        dropout, attended = self.dropout if self.training else 0.0, []
        for segment in shared.segments:
            queries, keys = all_queries[segment.rows], all_keys[segment.rows]
            if segment.rotation is not None:
                queries, keys = segment.rotation.of_queries(queries), segment.rotation.of_keys(keys)
            visible = segment.cache.update(self.layer, keys, all_values[segment.rows])
            attended.append(
                attend(queries, visible.keys, visible.values, segment.mask, shared.batch_invariant, dropout)
            )
        return self.merge(attended)


class CrossAttention(Attention):
    """Attention of the steps of a sequence to conditions."""

    def __init__(self, config: LanguageModelConfig, layer: int) -> None:
        super().__init__(config, layer, cross=True)

    def forward(self, inputs: Float[Tensor, "B S D"], shared: AttentionInputs) -> Float[Tensor, "B S D"]:
        all_queries = self.split_heads(self.query_norm(self._project(inputs, 0, self.width)))
        dropout, attended = self.dropout if self.training else 0.0, []
        for segment in shared.segments:
            keys, values = segment.cache.cross(self)
            queries = all_queries[segment.rows]
            attended.append(attend(queries, keys, values, segment.cross_mask, shared.batch_invariant, dropout))
        return self.merge(attended)

    def project_conditions(self, conditions: Float[Tensor, "B L D"]) -> KeysValues:
        """Return the keys and values of the conditions."""
        keys, values = self._project(conditions, self.width, 3 * self.width).chunk(2, dim=-1)
        return KeysValues(self.split_heads(self.key_norm(keys)), self.split_heads(values))

    def _project(self, inputs: Float[Tensor, "B S D"], start: int, stop: int) -> Float[Tensor, "B S X"]:
        """Return the outputs from `start` to before `stop` of the projection: queries, or keys and values."""
        projection = self.in_projection
        if isinstance(projection, nn.Linear):
            bias = None if projection.bias is None else projection.bias[start:stop]
            product = multiply if isinstance(projection, OneDnnLinear) else F.linear
            return product(inputs, projection.weight[start:stop], bias)
        if isinstance(projection, SplitLinear):
            return projection.section(inputs, start, stop)
        # A module that replaces the projection, as low-rank adaptation does, may not be a matrix: compute all outputs.
        projected: Tensor = projection(inputs)
        return projected[..., start:stop]


class SplitLinear(nn.Module):
    """A linear layer whose outputs are split into sections that can be computed alone: queries, and keys with values.

    Args:
        linear: the layer; the weights of the sections are views of its weights.
        widths: number of outputs of each section.
        prepare: replaces the layer of a section by the module that computes it.
    """

    def __init__(self, linear: nn.Linear, widths: list[int], prepare: Callable[[nn.Linear], nn.Module]) -> None:
        super().__init__()
        self.sections = nn.ModuleList()
        self.bounds: list[tuple[int, int]] = []
        for number, width in enumerate(widths):
            start = sum(widths[:number])
            section = nn.Linear(linear.in_features, width, bias=linear.bias is not None, device="meta")
            section.weight = nn.Parameter(linear.weight.detach()[start : start + width], requires_grad=False)
            if linear.bias is not None:
                section.bias = nn.Parameter(linear.bias.detach()[start : start + width], requires_grad=False)
            self.sections.append(prepare(section))
            self.bounds.append((start, start + width))

    def section(self, inputs: Float[Tensor, "*rows X"], start: int, stop: int) -> Float[Tensor, "*rows Y"]:
        """Return the outputs of one section. Raises ValueError if the bounds are not those of a section."""
        if (start, stop) not in self.bounds:
            raise ValueError(f"expected one of the sections {self.bounds}, got {(start, stop)}")
        outputs: Tensor = self.sections[self.bounds.index((start, stop))](inputs)
        return outputs
