"""Multi-head attention, over the sequence itself and over conditions, with a cache and without (arXiv:1706.03762, 3.2).

`attend(q, k, v, mask)` is the one place where queries meet keys. Which keys and values those are, is the matter of the
cache: `Uncached` hands on what it gets, `KVCache` appends it (after `transformers.DynamicCache`), `CachePositions`
writes it where each row is, in shapes that never change (after `transformers.StaticCache`).

Keys and values may have fewer heads than queries have, each serving a group of them (grouped-query attention,
arXiv:2305.13245); queries and keys may be normed, so that their products stay bounded (arXiv:2302.05442, 2).
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
"""Which keys a query sees: those that are true, those to whose scores 0 and not minus infinity is added, those of its
own step and before it, those of a span of a cache, or all."""
CrossMask = Bool[Tensor, "#B 1 1 L2"] | Float[Tensor, "#B 1 1 L2"] | SpanMask | None
"""The same for condition vectors."""


def attend(
    queries: Float[Tensor, "B H S E"],
    keys: Float[Tensor, "B G L E"] | CachedVectors,
    values: Float[Tensor, "B G L E"] | CachedVectors,
    mask: Mask,
    batch_invariant: bool = False,
    dropout: float = 0.0,
) -> Float[Tensor, "B H S E"]:
    """Mix the values by how well their keys fit the queries, by the backend that is fastest for the case.

    Args:
        keys: and values; with a `SpanMask` the cache's own, which are read where they lie.
        batch_invariant: whether a row must get the same bits whatever is beside it; `mask` is not "causal" then.
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
        # The queries of a group stand under each other, so that its keys are read once.
        by_group = queries.reshape(len(queries), keys.shape[1], -1, queries.shape[-1])
        return F.scaled_dot_product_attention(by_group, keys, values, tensor, dropout).reshape(queries.shape)
    return F.scaled_dot_product_attention(queries, keys, values, tensor, dropout, is_causal=causal, enable_gqa=grouped)


def causal_mask(steps: int, past_context: int | None, device: torch.device) -> Bool[Tensor, "1 1 {steps} {steps}"]:
    """Return which steps each step sees: itself and those before it, at most `past_context` of them."""
    visible = torch.ones((steps, steps), dtype=torch.bool, device=device).tril()
    if past_context is not None:
        visible = visible.triu(-past_context)
    return visible[None, None]


class KeysValues(NamedTuple):
    """Keys and values, in their heads."""

    keys: Float[Tensor, "B G L E"] | CachedVectors
    values: Float[Tensor, "B G L E"] | CachedVectors


@dataclass
class LayerCache:
    """What the cache holds of one layer: keys and values of the sequence (in their own few heads), and of the
    conditions."""

    keys: CachedVectors
    values: CachedVectors
    cross_keys: CachedVectors | None = None
    cross_values: CachedVectors | None = None

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        parts = (self.keys, self.values, self.cross_keys, self.cross_values)
        return sum(part.nbytes for part in parts if part is not None)


@dataclass
class KVCache:
    """The keys and values of a decoding run: `length` positions of it are filled."""

    layers: list[LayerCache]
    positions: Positions
    past_context: int | None = None
    """Steps before its own that a step sees; None is all of them."""
    cross_mask: Bool[Tensor, "B 1 1 L"] | None = None
    """Which condition vectors belong to a row; the rest pads rows to a common length."""
    length: int = 0
    read_in_place: bool = False
    """Whether the queries of a step whose positions only the device knows read it where it lies."""

    @property
    def nbytes(self) -> int:
        """The size of its layers in bytes."""
        return sum(layer.nbytes for layer in self.layers)

    def update(self, layer: int, keys: Float[Tensor, "B G S E"], values: Float[Tensor, "B G S E"]) -> KeysValues:
        """Write the keys and values of the next steps of a layer; return those that these steps may see."""
        cached, stop = self.layers[layer], self.length + keys.shape[2]
        cached.keys.view(positions=slice(self.length, stop)).write(keys)
        cached.values.view(positions=slice(self.length, stop)).write(values)
        if self.length == 0:  # there is nothing else, and what was just computed is faster to read
            return KeysValues(keys, values)
        first = 0 if self.past_context is None else max(0, self.length - self.past_context)
        visible = slice(first, stop)
        return KeysValues(cached.keys.view(positions=visible).read(), cached.values.view(positions=visible).read())

    def cross(self, attention: "CrossAttention") -> KeysValues:
        """Return the keys and values of the conditions, which `Transformer.cache_cross_kv` wrote."""
        keys, values = self.cached_cross(attention.layer)
        return KeysValues(keys.read(), values.read())

    def cached_cross(self, layer: int) -> tuple[CachedVectors, CachedVectors]:
        """Return the keys and values of a layer's conditions as they are kept."""
        cached = self.layers[layer]
        assert cached.cross_keys is not None and cached.cross_values is not None  # noqa: PT018
        return cached.cross_keys, cached.cross_values

    def rows(self, start: int, stop: int, cross_length: int | None = None) -> "KVCache":
        """View some rows, and the first `cross_length` condition vectors if that is given: what is written to the view
        is written here. It counts its own length, from this one's."""
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
    """A cache in which each row is at a position of its own that only the device knows: no shape follows from it."""

    cache: KVCache
    rows: Int[Tensor, "B"]
    """Their numbers."""
    at: Int[Tensor, "B"]
    """How many steps of each row are cached."""
    length: int
    """Steps of the cache that are read: more than any of these."""

    def update(self, layer: int, keys: Float[Tensor, "B G 1 E"], values: Float[Tensor, "B G 1 E"]) -> KeysValues:
        """Write the keys and values of each row's next step; return the first `length` steps, which the mask hides
        where they are not the row's, or the cache itself where it is read in place."""
        cached, where = self.cache.layers[layer], (self.rows, slice(None), self.at)
        cached.keys.write(keys[:, :, 0], where)
        cached.values.write(values[:, :, 0], where)
        if self.cache.read_in_place:
            return KeysValues(cached.keys, cached.values)
        visible = slice(self.length)
        return KeysValues(cached.keys.view(positions=visible).read(), cached.values.view(positions=visible).read())

    def cross(self, attention: "CrossAttention") -> KeysValues:
        """Return the keys and values of the conditions, or the cache's own where it is read in place."""
        return (
            KeysValues(*self.cache.cached_cross(attention.layer))
            if self.cache.read_in_place
            else self.cache.cross(attention)
        )


@dataclass(frozen=True, eq=False)
class Uncached:
    """The cache of a pass that keeps nothing, as in training."""

    conditions: Float[Tensor, "B L D"] | None
    """What cross-attention reads."""

    def update(self, layer: int, keys: Float[Tensor, "B G S E"], values: Float[Tensor, "B G S E"]) -> KeysValues:
        """Return the keys and values as they are."""
        return KeysValues(keys, values)

    def cross(self, attention: "CrossAttention") -> KeysValues:
        """Project the conditions."""
        if self.conditions is None:
            raise ValueError("expected conditions for cross-attention, got none")
        return attention.project_conditions(self.conditions)


@dataclass(frozen=True, eq=False)
class CacheSegment:
    """Rows of a pass that share a cache and its length, and so are attended to together."""

    rows: slice
    """Which of the pass's rows."""
    cache: KVCache | CachePositions | Uncached
    rotation: Rotation | None
    """Rotation of their queries and keys, where positions are rotary."""
    mask: Mask
    """Which steps their queries see."""
    cross_mask: CrossMask
    """Which condition vectors they see."""


@dataclass(frozen=True, eq=False)
class AttentionInputs:
    """What all layers of a pass have in common."""

    segments: Sequence[CacheSegment]
    """All rows of the pass, in their order."""
    batch_invariant: bool = False
    """Whether a row must get the same bits whatever is beside it."""


class Attention(nn.Module):
    """Queries, keys and values come out of one matrix, in this order.

    Args:
        config: sizes and options.
        layer: the number of the layer, by which caches know it.
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
        """Part vectors into heads."""
        rows, steps, width = projected.shape
        size = self.width // self.heads
        return projected.view(rows, steps, width // size, size).transpose(1, 2)

    def merge(self, segments: list[Float[Tensor, "_ H S E"]]) -> Float[Tensor, "B S D"]:
        """Put the heads of all segments together, and project."""
        merged = [attended.transpose(1, 2).flatten(2) for attended in segments]
        projected: Tensor = self.out_projection(merged[0] if len(merged) == 1 else torch.cat(merged))
        return projected


class SelfAttention(Attention):
    """Causal attention of the steps of a sequence to each other and to those before them that are cached."""

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
    """Attention to conditions."""

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
        """Multiply the inputs by some rows of the projection's matrix."""
        projection = self.in_projection
        if isinstance(projection, nn.Linear):
            bias = None if projection.bias is None else projection.bias[start:stop]
            product = multiply if isinstance(projection, OneDnnLinear) else F.linear
            return product(inputs, projection.weight[start:stop], bias)
        if isinstance(projection, SplitLinear):
            return projection.section(inputs, start, stop)
        # A module in its place, as low-rank adaptation puts one there, may be more than a matrix: it gives the whole.
        projected: Tensor = projection(inputs)
        return projected[..., start:stop]


class SplitLinear(nn.Module):
    """A linear layer in sections of its outputs, each of which may be asked for alone: queries, and keys with values.

    Args:
        linear: the layer, whose weights the sections view.
        widths: outputs of each section.
        prepare: makes of a section the module that stands for it.
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
        """Return what one of the sections makes of the inputs; ValueError for bounds that are not those of one."""
        if (start, stop) not in self.bounds:
            raise ValueError(f"expected one of the sections {self.bounds}, got {(start, stop)}")
        outputs: Tensor = self.sections[self.bounds.index((start, stop))](inputs)
        return outputs
