"""Multi-head attention, over the sequence itself and over conditions, with and without memory (arXiv:1706.03762, 3.2).

Keys and values may have fewer heads than queries have, each serving a group of them (grouped-query attention,
arXiv:2305.13245); queries and keys may be normed, so that their products stay bounded (arXiv:2302.05442, 2).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from model.kernels.attention_by_products import attend_by_products, pays
from model.kernels.packed_linear import Sections
from model.lm.config import LanguageModelConfig
from model.lm.positions import Positions, Rotation


@dataclass
class LayerCache:
    """What one layer remembers: keys and values of the sequence (in their own few heads), and of the conditions."""

    keys: Float[Tensor, "B G S E"]
    values: Float[Tensor, "B G S E"]
    cross_keys: Float[Tensor, "B H L E"] | None = None
    cross_values: Float[Tensor, "B H L E"] | None = None

    @property
    def nbytes(self) -> int:
        """What it takes, bytes."""
        kept = (self.keys, self.values, self.cross_keys, self.cross_values)
        return sum(tensor.nbytes for tensor in kept if tensor is not None)


@dataclass
class Cache:
    """The memory of a decoding run: `length` positions of it are filled.

    `cross_mask` says which condition vectors belong to a row; the rest pads rows to a common length.
    """

    layers: list[LayerCache]
    positions: Positions
    cross_mask: Bool[Tensor, "B 1 1 L"] | None = None
    length: int = 0

    @property
    def nbytes(self) -> int:
        """What its layers take, bytes."""
        return sum(layer.nbytes for layer in self.layers)

    def rows(self, start: int, stop: int, source: int | None = None) -> "Cache":
        """A view of some rows, of the first `source` condition vectors if that is given: what is written to it is
        written here. It counts its own length, from this one's."""
        cut = slice(start, stop)
        layers = [
            LayerCache(
                layer.keys[cut],
                layer.values[cut],
                None if layer.cross_keys is None else layer.cross_keys[cut, :, :source],
                None if layer.cross_values is None else layer.cross_values[cut, :, :source],
            )
            for layer in self.layers
        ]
        mask = None if self.cross_mask is None else self.cross_mask[cut, ..., :source]
        return Cache(layers, self.positions, mask, self.length)


@dataclass(frozen=True, eq=False)
class Span:
    """Rows of a step that remember equally much, and so are attended to together."""

    rows: slice
    """Which of the step's rows."""
    start: int
    """Steps that they remember."""
    rotation: Rotation | None
    """Of their queries and keys, where positions are rotary."""
    source_mask: Bool[Tensor, "B 1 1 L"] | None
    """Which of the condition vectors that they remember are keys."""


@dataclass(frozen=True, eq=False)
class Places:
    """Where each row of a step is, in tensors: of the shapes nothing follows from it."""

    rows: Int[Tensor, "B"]
    """Their numbers."""
    at: Int[Tensor, "B"]
    """Steps that each remembers."""
    length: int
    """Of the memory that is read: more than any of these."""
    seen: Float[Tensor, "B 1 1 L"]
    """What is added to the scores of the keys of that memory: 0 where a row sees them, else minus infinity."""
    rotation: Rotation | None
    """Of each row's query and key, where positions are rotary."""
    source_seen: Float[Tensor, "B 1 1 L2"] | None
    """The same as `seen` for the condition vectors."""


def reach(steps: int, past_context: int | None, device: torch.device) -> Bool[Tensor, "1 1 {steps} {steps}"]:
    """Which steps each step sees: itself and those before it, at most `past_context` of them."""
    seen = torch.ones((steps, steps), dtype=torch.bool, device=device).tril()
    if past_context is not None:
        seen = seen.triu(-past_context)
    return seen[None, None]


class Attention(nn.Module):
    """Queries, keys and values come out of one matrix, in this order.

    Args:
        config: sizes and options.
        cross: whether keys and values come from conditions, not from the sequence.
    """

    def __init__(self, config: LanguageModelConfig, cross: bool) -> None:
        super().__init__()
        self.width, self.heads, self.cross = config.width, config.heads, cross
        self.key_value_heads = config.heads if cross or config.key_value_heads is None else config.key_value_heads
        self.dropout = config.dropout if config.attention_dropout is None else config.attention_dropout
        self.past_context = None if cross else config.past_context
        self.key_width = config.width // config.heads * self.key_value_heads
        self.in_projection: nn.Module = nn.Linear(
            config.width, config.width + 2 * self.key_width, bias=config.attention_bias
        )
        self.out_projection: nn.Module = nn.Linear(config.width, config.width, bias=config.attention_bias)
        normed = config.cross_query_key_norm if cross else config.query_key_norm
        self.query_norm: nn.Module = nn.LayerNorm(config.width) if normed else nn.Identity()
        self.key_norm: nn.Module = nn.LayerNorm(self.key_width) if normed else nn.Identity()

    def attend(
        self,
        queries: Float[Tensor, "B H S E"],
        keys: Float[Tensor, "B G L E"],
        values: Float[Tensor, "B G L E"],
        mask: Bool[Tensor, "#B 1 #S L"] | None = None,
        causal: bool = False,
    ) -> Float[Tensor, "B S D"]:
        """Mix the values by how well their keys fit the queries, and project."""
        dropout, grouped = self.dropout if self.training else 0.0, self.key_value_heads < self.heads
        if not dropout and pays(queries, keys, mask):
            mixed = attend_by_products(queries, keys, values, mask, causal)
        else:
            mixed = F.scaled_dot_product_attention(
                queries, keys, values, mask, dropout, is_causal=causal, enable_gqa=grouped
            )
        return self.out_projection(mixed.transpose(1, 2).flatten(2))

    def mix_alike(
        self,
        queries: Float[Tensor, "B H S E"],
        keys: Float[Tensor, "B G L E"],
        values: Float[Tensor, "B G L E"],
        mask: Bool[Tensor, "#B 1 #S L"] | None = None,
    ) -> Float[Tensor, "B S D"]:
        """What `attend` mixes, by matrix products that give a row the same bits wherever it stands in a batch.

        The fused kernel does not on the CPU: with two threads or more, its last bits change with the row's place.
        The queries of a group stand under each other, so that its keys are read as they are remembered, once.
        """
        group, steps = self.heads // self.key_value_heads, queries.shape[2]
        if group > 1:
            queries = queries.unflatten(1, (-1, group)).flatten(2, 3)
        queries = queries * queries.shape[-1] ** -0.5
        if queries.shape[2] == 1:  # in this order the kernel reads the keys a fifth faster
            scores = (keys @ queries.transpose(-1, -2)).transpose(-1, -2)
        else:
            scores = queries @ keys.transpose(-1, -2)
        if mask is not None:
            seen = mask if group == 1 else mask.expand(-1, -1, steps, -1).repeat(1, 1, group, 1)
            scores = torch.where(seen, scores, float("-inf"))
        mixed = scores.softmax(-1) @ values
        if group > 1:
            mixed = mixed.unflatten(2, (group, steps)).flatten(1, 2)
        return mixed.transpose(1, 2).reshape(len(mixed), steps, self.width)

    def over_self(
        self,
        inputs: Float[Tensor, "B S D"],
        rotation: Rotation | None,
        mask: Bool[Tensor, "1 1 S S"] | None,
        cache: LayerCache | None,
    ) -> Float[Tensor, "B S D"]:
        """Causal attention (narrowed by `mask`, if any) from the first step on, which a cache remembers."""
        queries, keys, values = self._parts(inputs)
        if rotation is not None:
            queries, keys = rotation.of_queries(queries), rotation.of_keys(keys)
        if cache is None:
            return self.attend(queries, keys, values, mask, causal=mask is None)
        stop = inputs.shape[1]
        cache.keys[:, :, :stop], cache.values[:, :, :stop] = keys, values
        return self.out_projection(self.mix_alike(queries, keys, values, mask))

    def over_remembered_steps(
        self, inputs: Float[Tensor, "B 1 D"], caches: Sequence[LayerCache], spans: Sequence[Span]
    ) -> Float[Tensor, "B 1 D"]:
        """Attention of one more step of every row to what its cache holds before it, and to itself."""
        all_queries, all_keys, all_values = self._parts(inputs)
        mixed = []
        for span, cache in zip(spans, caches, strict=True):
            queries, keys = all_queries[span.rows], all_keys[span.rows]
            if span.rotation is not None:
                queries, keys = span.rotation.of_queries(queries), span.rotation.of_keys(keys)
            stop = span.start + 1
            cache.keys[:, :, span.start : stop], cache.values[:, :, span.start : stop] = keys, all_values[span.rows]
            first = 0 if self.past_context is None else max(0, span.start - self.past_context)
            mixed.append(self.mix_alike(queries, cache.keys[:, :, first:stop], cache.values[:, :, first:stop]))
        return self.out_projection(mixed[0] if len(mixed) == 1 else torch.cat(mixed))

    def over_places(self, inputs: Float[Tensor, "B 1 D"], cache: LayerCache, places: Places) -> Float[Tensor, "B 1 D"]:
        """`over_remembered_steps` in shapes that are the same at every step, for a graph that is captured once."""
        queries, keys, values = self._parts(inputs)
        if places.rotation is not None:
            queries, keys = places.rotation.of_queries(queries), places.rotation.of_keys(keys)
        cache.keys[places.rows, :, places.at] = keys[:, :, 0].to(cache.keys.dtype)
        cache.values[places.rows, :, places.at] = values[:, :, 0].to(cache.values.dtype)
        read = slice(0, places.length)
        return self.out_projection(
            self._mix_step(queries, cache.keys[:, :, read], cache.values[:, :, read], places.seen)
        )

    def over_source_of_places(
        self, inputs: Float[Tensor, "B 1 D"], cache: LayerCache, places: Places
    ) -> Float[Tensor, "B 1 D"]:
        """`over_remembered_source` of one step of every row, in the same shapes at every step."""
        assert cache.cross_keys is not None and cache.cross_values is not None  # noqa: PT018
        queries = self._source_queries(inputs)
        return self.out_projection(self._mix_step(queries, cache.cross_keys, cache.cross_values, places.source_seen))

    def _mix_step(
        self,
        queries: Float[Tensor, "B H 1 E"],
        keys: Float[Tensor, "B G L E"],
        values: Float[Tensor, "B G L E"],
        seen: Float[Tensor, "B 1 1 L"] | None,
    ) -> Float[Tensor, "B 1 D"]:
        """By the fused kernel. The queries of a group stand under each other, so that its keys are read once."""
        grouped = queries.reshape(len(queries), keys.shape[1], -1, queries.shape[-1])
        mixed = F.scaled_dot_product_attention(grouped, keys, values, seen)
        return mixed.reshape(len(queries), 1, self.width)

    def _parts(self, inputs: Float[Tensor, "B S D"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the inputs themselves, in heads."""
        queries, keys, values = self.in_projection(inputs).split([self.width, self.key_width, self.key_width], -1)
        return self._part(self.query_norm(queries)), self._part(self.key_norm(keys)), self._part(values)

    def project_source(
        self, source: Float[Tensor, "B L D"]
    ) -> tuple[Float[Tensor, "B H L E"], Float[Tensor, "B H L E"]]:
        """Keys and values of the conditions."""
        keys, values = self._projected(source, self.width, 3 * self.width).chunk(2, dim=-1)
        return self._part(self.key_norm(keys)), self._part(values)

    def over_source(
        self, inputs: Float[Tensor, "B S D"], source: Float[Tensor, "B L D"], mask: Bool[Tensor, "B 1 1 L"] | None
    ) -> Float[Tensor, "B S D"]:
        """Attention to the conditions."""
        keys, values = self.project_source(source)
        return self.attend(self._source_queries(inputs), keys, values, mask)

    def over_remembered_source(
        self, inputs: Float[Tensor, "B S D"], caches: Sequence[LayerCache], spans: Sequence[Span]
    ) -> Float[Tensor, "B S D"]:
        """Attention to conditions that are projected already."""
        queries, mixed = self._source_queries(inputs), []
        for span, cache in zip(spans, caches, strict=True):
            assert cache.cross_keys is not None and cache.cross_values is not None  # noqa: PT018
            mixed.append(self.mix_alike(queries[span.rows], cache.cross_keys, cache.cross_values, span.source_mask))
        return self.out_projection(mixed[0] if len(mixed) == 1 else torch.cat(mixed))

    def _source_queries(self, inputs: Float[Tensor, "B S D"]) -> Float[Tensor, "B H S E"]:
        return self._part(self.query_norm(self._projected(inputs, 0, self.width)))

    def _projected(self, inputs: Float[Tensor, "B S D"], start: int, stop: int) -> Float[Tensor, "B S X"]:
        """What some rows of the projection's matrix make of the inputs."""
        projection = self.in_projection
        if isinstance(projection, nn.Linear):
            bias = None if projection.bias is None else projection.bias[start:stop]
            return F.linear(inputs, projection.weight[start:stop], bias)
        if isinstance(projection, Sections):
            return projection.section(inputs, start, stop)
        # A module in its place, as low-rank adaptation puts one there, may be more than a matrix: it gives the whole.
        return projection(inputs)[..., start:stop]

    def _part(self, projected: Float[Tensor, "B S X"]) -> Float[Tensor, "B H S E"]:
        """Part vectors into heads."""
        rows, steps, width = projected.shape
        size = self.width // self.heads
        return projected.view(rows, steps, width // size, size).transpose(1, 2)
