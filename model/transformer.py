"""The decoder of MusicGen: pre-norm self-attention, cross-attention to conditions, feed-forward (arXiv:2306.05284).

No biases but in the layer norms, exact GELU, sinusoidal positions over everything that is in the sequence, prefixes
included. While decoding, keys and values live in a `Cache` that is allocated once; those of the conditions are
projected once.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F


def position_table(length: int, width: int, period: float, device: torch.device) -> Float[Tensor, "{length} {width}"]:
    """Sinusoids: cosines in the first half of the width, sines in the second (arXiv:1706.03762, 3.5)."""
    half = width // 2
    frequencies = period ** (torch.arange(half, device=device, dtype=torch.float32) / (half - 1))
    phase = torch.arange(length, device=device, dtype=torch.float32)[:, None] / frequencies
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


@dataclass
class LayerCache:
    """What one layer remembers: keys and values of the sequence, and of the conditions."""

    keys: Float[Tensor, "B H S E"]
    values: Float[Tensor, "B H S E"]
    cross_keys: Float[Tensor, "B H L E"] | None = None
    cross_values: Float[Tensor, "B H L E"] | None = None


@dataclass
class Cache:
    """The memory of a decoding run, of fixed size from the start: `length` positions of it are filled.

    `cross_mask` says which condition vectors belong to a row; the rest pads rows to a common length.
    """

    layers: list[LayerCache]
    positions: Float[Tensor, "S D"]
    cross_mask: Bool[Tensor, "B 1 1 L"] | None = None
    length: int = 0

    def rows(self, start: int, stop: int) -> "Cache":
        """A view of some rows: what is written to it is written here."""
        cut = slice(start, stop)
        layers = [
            LayerCache(
                layer.keys[cut],
                layer.values[cut],
                None if layer.cross_keys is None else layer.cross_keys[cut],
                None if layer.cross_values is None else layer.cross_values[cut],
            )
            for layer in self.layers
        ]
        return Cache(layers, self.positions, None if self.cross_mask is None else self.cross_mask[cut], self.length)


class Attention(nn.Module):
    """Multi-head attention without biases; queries, keys and values in one matrix, in this order."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_projection = nn.Linear(width, 3 * width, bias=False)
        self.out_projection = nn.Linear(width, width, bias=False)

    def split(self, projected: Float[Tensor, "B S X"], parts: int) -> list[Float[Tensor, "B H S E"]]:
        """Part a projection into queries, keys, values and each of these into heads."""
        return [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in projected.chunk(parts, dim=-1)]

    def attend(
        self,
        queries: Float[Tensor, "B H S E"],
        keys: Float[Tensor, "B H L E"],
        values: Float[Tensor, "B H L E"],
        mask: Bool[Tensor, "#B 1 #S L"] | None = None,
        causal: bool = False,
    ) -> Float[Tensor, "B S D"]:
        """Mix the values by how well their keys fit the queries, and project."""
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(queries, keys, values, mask, dropout, is_causal=causal)
        return self.out_projection(mixed.transpose(1, 2).flatten(2))

    def attend_alike(
        self,
        queries: Float[Tensor, "B H S E"],
        keys: Float[Tensor, "B H L E"],
        values: Float[Tensor, "B H L E"],
        mask: Bool[Tensor, "#B 1 #S L"] | None = None,
    ) -> Float[Tensor, "B S D"]:
        """The same for decoding, by matrix products that give a row the same bits wherever it stands in a batch.

        The fused kernel does not on the CPU: with two threads or more, its last bits change with the row's place.
        """
        scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return self.out_projection((scores.softmax(-1) @ values).transpose(1, 2).flatten(2))

    def over_self(self, inputs: Float[Tensor, "B S D"], cache: LayerCache | None, start: int) -> Float[Tensor, "B S D"]:
        """Causal attention; with a cache, over what it holds before `start` too (then one position at a time)."""
        queries, keys, values = self.split(self.in_projection(inputs), 3)
        steps = inputs.shape[1]
        if cache is None:
            return self.attend(queries, keys, values, causal=True)
        cache.keys[:, :, start : start + steps] = keys
        cache.values[:, :, start : start + steps] = values
        if steps > 1:
            causal = torch.ones((1, 1, steps, steps), dtype=torch.bool, device=inputs.device).tril()
            return self.attend_alike(queries, keys, values, causal)
        return self.attend_alike(queries, cache.keys[:, :, : start + 1], cache.values[:, :, : start + 1])

    def project_source(self, source: Float[Tensor, "B L D"]) -> list[Float[Tensor, "B H L E"]]:
        """Keys and values of the conditions."""
        return self.split(F.linear(source, self.in_projection.weight[source.shape[-1] :]), 2)

    def over_source(
        self, inputs: Float[Tensor, "B S D"], source: Float[Tensor, "B L D"], mask: Bool[Tensor, "B 1 1 L"] | None
    ) -> Float[Tensor, "B S D"]:
        """Attention to the conditions."""
        keys, values = self.project_source(source)
        return self.attend(self._queries(inputs), keys, values, mask)

    def over_remembered(
        self,
        inputs: Float[Tensor, "B S D"],
        keys: Float[Tensor, "B H L E"],
        values: Float[Tensor, "B H L E"],
        mask: Bool[Tensor, "B 1 1 L"],
    ) -> Float[Tensor, "B S D"]:
        """Attention to conditions that are projected already."""
        return self.attend_alike(self._queries(inputs), keys, values, mask)

    def _queries(self, inputs: Float[Tensor, "B S D"]) -> Float[Tensor, "B H S E"]:
        return self.split(F.linear(inputs, self.in_projection.weight[: inputs.shape[-1]]), 1)[0]


class Layer(nn.Module):
    """Self-attention, cross-attention (if any), feed-forward, each normed before and added after."""

    def __init__(self, width: int, heads: int, multiplier: int, dropout: float, cross: bool) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(width)
        self.self_attention = Attention(width, heads, dropout)
        self.cross_norm = nn.LayerNorm(width) if cross else None
        self.cross_attention = Attention(width, heads, dropout) if cross else None
        self.feedforward_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, multiplier * width, bias=False)
        self.contract = nn.Linear(multiplier * width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        inputs: Float[Tensor, "B S D"],
        source: Float[Tensor, "B L D"] | None,
        source_mask: Bool[Tensor, "B 1 1 L"] | None,
        cache: LayerCache | None,
        cross_mask: Bool[Tensor, "B 1 1 L2"] | None,
        start: int,
    ) -> Float[Tensor, "B S D"]:
        hidden = inputs + self.dropout(self.self_attention.over_self(self.self_norm(inputs), cache, start))
        if self.cross_attention is not None and self.cross_norm is not None:
            normed = self.cross_norm(hidden)
            if cache is not None and cache.cross_keys is not None and cache.cross_values is not None:
                assert cross_mask is not None
                attended = self.cross_attention.over_remembered(
                    normed, cache.cross_keys, cache.cross_values, cross_mask
                )
            elif source is not None:
                attended = self.cross_attention.over_source(normed, source, source_mask)
            else:
                raise ValueError("expected a source for cross-attention, got none")
            hidden = hidden + self.dropout(attended)
        expanded = self.dropout(F.gelu(self.expand(self.feedforward_norm(hidden))))
        return hidden + self.dropout(self.contract(expanded))


class Transformer(nn.Module):
    """A stack of layers. Weights start Gaussian, narrower with depth (AudioCraft: `gaussian`, `current`)."""

    def __init__(
        self, width: int, heads: int, layers: int, multiplier: int, dropout: float, cross: bool, period: float
    ) -> None:
        super().__init__()
        if width % (2 * heads):
            raise ValueError(f"expected a width that is a multiple of 2 * heads, got {width} and {heads} heads")
        self.width, self.heads, self.period = width, heads, period
        self.layers = nn.ModuleList(Layer(width, heads, multiplier, dropout, cross) for _ in range(layers))
        for depth, layer in enumerate(self.layers, start=1):
            for module in layer.modules():
                if isinstance(module, nn.Linear):
                    initialise(module.weight, depth)

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
            positions = position_table(steps, self.width, self.period, inputs.device)
        else:
            positions = cache.positions[start : start + steps]
        hidden = inputs + positions.to(inputs.dtype)
        for number, layer in enumerate(self.layers):
            memory = None if cache is None else cache.layers[number]
            seen = None if source_mask is None else source_mask[:, None, None]
            hidden = layer(hidden, source, seen, memory, None if cache is None else cache.cross_mask, start)
        if cache is not None:
            cache.length = start + steps
        return hidden

    def allocate(self, rows: int, length: int, source_length: int) -> Cache:
        """An empty cache for `rows` rows of up to `length` positions and condition vectors of `source_length`."""
        weight = next(self.parameters())

        def empty(positions: int) -> Tensor:
            return weight.new_zeros((rows, self.heads, positions, self.width // self.heads))

        layers = [
            LayerCache(
                empty(length),
                empty(length),
                empty(source_length) if source_length else None,
                empty(source_length) if source_length else None,
            )
            for _ in self.layers
        ]
        mask = torch.zeros((rows, 1, 1, source_length), dtype=torch.bool, device=weight.device)
        positions = position_table(length, self.width, self.period, weight.device)
        return Cache(layers, positions, mask if source_length else None)

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


def initialise(weight: Tensor, depth: int | None = None) -> None:
    """Truncated Gaussian of deviation 1 / sqrt(fan in), in layer `depth` divided by sqrt(2 * depth)."""
    deviation = weight.shape[-1] ** -0.5 / (1.0 if depth is None else (2 * depth) ** 0.5)
    nn.init.trunc_normal_(weight, 0.0, deviation, -3 * deviation, 3 * deviation)
