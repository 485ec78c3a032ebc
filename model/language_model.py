"""The language model of MusicGen over K interleaved codebooks (arXiv:2306.05284): embeddings, fused conditions, heads.

The input is the sum of one embedding a codebook. A condition joins it in one of four ways: as keys of cross-attention,
as a prefix, added to every step, or stretched over the steps and added. Conditions are taken in the order of the
mapping they come in (text, melody, joint embedding), which is how AudioCraft orders them whatever its configuration
says; each prefix goes in front of those before it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from model import patterns
from model.configuration import LanguageModelConfig
from model.patterns import Mode, Pattern
from model.transformer import Transformer, initialise, position_table


@dataclass(frozen=True, eq=False)
class Condition:
    """An embedded condition: vectors [B, L, D], and which of them mean something (the others are zeros)."""

    embedding: Float[Tensor, "B L D"]
    mask: Bool[Tensor, "B L"]


@dataclass(frozen=True, eq=False)
class Prediction:
    """Logits for every code, and which of them are predictions that count; elsewhere logits mean nothing."""

    logits: Float[Tensor, "B K T V"]
    mask: Bool[Tensor, "B K T"]


@dataclass(frozen=True, eq=False)
class Loss:
    """Cross-entropy in nats: the mean over codebooks, and each codebook's own."""

    mean: Float[Tensor, ""]
    codebooks: Float[Tensor, "K"]


@dataclass(frozen=True, eq=False)
class Fused:
    """Conditions in the form in which the decoder takes them; None where there are none."""

    prefix: Float[Tensor, "B P D"] | None
    """Put before the steps."""
    added: Float[Tensor, "B S D"] | None
    """Added to the steps."""
    source: Float[Tensor, "B L D"] | None
    """Read by cross-attention."""
    source_mask: Bool[Tensor, "B L"] | None
    """Which vectors of `source` are keys; None where there is no source."""


class LanguageModel(nn.Module):
    """A decoder-only transformer that predicts the codes of K codebooks from earlier ones and from conditions."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config, self.special = config, config.cardinality
        self.embeddings = nn.ModuleList(
            nn.Embedding(config.cardinality + 1, config.width) for _ in range(config.codebooks)
        )
        self.transformer = Transformer(
            config.width,
            config.heads,
            config.layers,
            config.feedforward_multiplier,
            config.dropout,
            bool(config.cross),
            config.position_period,
        )
        self.out_norm = nn.LayerNorm(config.width)
        self.heads = nn.ModuleList(
            nn.Linear(config.width, config.cardinality, bias=False) for _ in range(config.codebooks)
        )
        for module in (*self.embeddings, *self.heads):
            assert isinstance(module, nn.Embedding | nn.Linear)
            initialise(module.weight)

    def pattern(self, frames: int) -> Pattern:
        """The layout of the codes of so many frames."""
        config, delays = self.config, self.config.codebook_delays
        match config.pattern:
            case "delay":
                return patterns.delayed(frames, delays)
            case "unroll":
                return patterns.unrolled(frames, tuple(range(config.codebooks)), delays)
            case "coarse_first":
                return patterns.coarse_first(frames, delays[1:])
            case "grouped":
                return patterns.grouped(frames, config.codebooks, config.group)

    def embed(self, sequence: Int[Tensor, "B K S"]) -> Float[Tensor, "B S D"]:
        """The sum of the embeddings of all codebooks."""
        embedded = self.embeddings[0](sequence[:, 0])
        for codebook in range(1, self.config.codebooks):
            embedded = embedded + self.embeddings[codebook](sequence[:, codebook])
        return embedded

    def fuse(self, conditions: Mapping[str, Condition], pattern: Pattern, mode: Mode = "full") -> Fused:
        """Bring the conditions into the form the decoder takes for the sequence of a pattern.

        What is added in `valid` mode is the beginning of what is added in `full` mode. A summed condition of one vector
        goes to every step; a longer one is frame-wise: a step gets the vector of the frame that comes next. It may go
        on past the pattern's frames, for a clip shorter than its melody. A stretched one ends with the valid steps, and
        the steps after them stay at its last vector.

        Raises ValueError if a condition is missing or unknown, or of the wrong width or length.
        """
        config = self.config
        if frozenset(conditions) != config.conditions:
            raise ValueError(f"expected conditions {sorted(config.conditions)}, got {sorted(conditions)}")
        prefixes: list[Tensor] = []
        sources: list[Tensor] = []
        masks: list[Tensor] = []
        added: list[Tensor] = []
        steps = pattern.steps(mode)
        for name, condition in conditions.items():
            embedding = condition.embedding
            if embedding.shape[-1] != config.width:
                raise ValueError(f"expected {name} of width {config.width}, got {embedding.shape[-1]}")
            if name in config.prepend:
                prefixes.insert(0, embedding)
            if name in config.cross:
                sources.append(embedding)
                masks.append(self._keys(condition.mask))
            if name in config.sum:
                added.append(_along_frames(name, embedding, pattern, steps))
            if name in config.interpolate:
                frames = torch.arange(steps, device=embedding.device) * embedding.shape[1]
                frames = frames // (config.interpolate_steps or pattern.steps("valid"))
                added.append(embedding[:, frames.clamp(max=embedding.shape[1] - 1)])
        source = torch.cat(sources, dim=1) if sources else None
        if source is not None and config.cross_positions:
            table = position_table(source.shape[1], config.width, config.position_period, source.device)
            source = source + table.to(source.dtype)
        return Fused(
            torch.cat(prefixes, dim=1) if prefixes else None,
            torch.stack(added).sum(0) if added else None,
            source,
            torch.cat(masks, dim=1) if masks else None,
        )

    def _keys(self, mask: Bool[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
        """Which vectors of a condition cross-attention reads; of a null, whose mask is empty, one vector of zeros."""
        if self.config.padding == "attended":
            return torch.ones_like(mask)
        null = ~mask.any(dim=1, keepdim=True)
        return mask | (null & (torch.arange(mask.shape[1], device=mask.device) == 0))

    def logits(self, hidden: Float[Tensor, "B S D"]) -> Float[Tensor, "B K S V"]:
        """What each codebook's head says of the next step."""
        normed = self.out_norm(hidden)
        return torch.stack([head(normed) for head in self.heads], dim=1)

    def forward(
        self,
        codes: Int[Tensor, "B K T"],
        conditions: Mapping[str, Condition],
        lengths: Int[Tensor, "B"] | None = None,
        mode: Mode = "valid",
    ) -> Prediction:
        """Predict every code from those before it in the pattern.

        Frames from `lengths` on are padding: the model sees the special token there, and they are not predictions.
        Raises ValueError for codes of another shape or out of range, lengths outside 1 … T, or wrong conditions.
        """
        if codes.ndim != 3 or codes.shape[1] != self.config.codebooks or not codes.numel():
            raise ValueError(f"expected codes [B, {self.config.codebooks}, T], got {list(codes.shape)}")
        batch, _, frames = codes.shape
        inside = torch.ones((batch, frames), dtype=torch.bool, device=codes.device)
        if lengths is not None:
            if lengths.shape != (batch,) or lengths.min() < 1 or lengths.max() > frames:
                raise ValueError(f"expected {batch} lengths from 1 to {frames}, got {lengths.tolist()}")
            inside = torch.arange(frames, device=codes.device) < lengths.to(codes.device)[:, None]
        self.check_range(torch.where(inside[:, None], codes, 0))
        codes = torch.where(inside[:, None], codes, self.special)
        pattern = self.pattern(frames)
        embedded = self.embed(pattern.build(codes, self.special, mode))
        steps = embedded.shape[1]
        fused = self.fuse(conditions, pattern, mode)
        if fused.added is not None:
            embedded = embedded + fused.added
        if fused.prefix is not None:
            embedded = torch.cat([fused.prefix.to(embedded.dtype), embedded], dim=1)
        hidden = self.transformer(embedded, fused.source, fused.source_mask)[:, -steps:]
        logits, mask = pattern.revert_outputs(self.logits(hidden), mode, fill=0.0)
        return Prediction(logits, mask & inside[:, None])

    def check_range(self, codes: Int[Tensor, "..."]) -> None:
        """Raise ValueError unless all of these are entries of a codebook."""
        lowest, highest = torch.stack(codes.aminmax()).tolist()
        if lowest < 0 or highest >= self.config.cardinality:
            raise ValueError(f"expected codes from 0 to {self.config.cardinality - 1}, got {lowest} to {highest}")


def _along_frames(name: str, embedding: Float[Tensor, "B L D"], pattern: Pattern, steps: int) -> Float[Tensor, "B S D"]:
    """The vectors of a summed condition, one a step."""
    length = embedding.shape[1]
    if length == 1:
        return embedding.expand(-1, steps, -1)
    if length < pattern.frames:
        raise ValueError(
            f"expected {name} of length 1 or of {pattern.frames} frames or more to be summed, got {length}"
        )
    return embedding[:, pattern.upcoming_frames[:steps].to(embedding.device)]


def cross_entropy(prediction: Prediction, codes: Int[Tensor, "B K T"]) -> Loss:
    """Cross-entropy of the predictions that count: over all of a codebook's positions, then the mean of codebooks.

    NaN for a codebook without a single prediction (recordings no longer than its delay).
    """
    targets = torch.where(prediction.mask, codes, -100)
    flat = F.cross_entropy(
        prediction.logits.flatten(0, 2).float(), targets.flatten(), ignore_index=-100, reduction="none"
    )
    codebooks = flat.view(codes.shape).sum((0, 2)) / prediction.mask.sum((0, 2))
    return Loss(codebooks.mean(), codebooks)


_AUDIOCRAFT_NAMES = (
    (r"emb\.(\d+)\.weight", r"embeddings.\1.weight"),
    (r"linears\.(\d+)\.weight", r"heads.\1.weight"),
    (r"out_norm\.(weight|bias)", r"out_norm.\1"),
    (r"(transformer\.layers\.\d+\.)self_attn\.in_proj_weight", r"\1self_attention.in_projection.weight"),
    (r"(transformer\.layers\.\d+\.)self_attn\.out_proj\.weight", r"\1self_attention.out_projection.weight"),
    (r"(transformer\.layers\.\d+\.)cross_attention\.in_proj_weight", r"\1cross_attention.in_projection.weight"),
    (r"(transformer\.layers\.\d+\.)cross_attention\.out_proj\.weight", r"\1cross_attention.out_projection.weight"),
    (r"(transformer\.layers\.\d+\.)norm1\.(weight|bias)", r"\1self_norm.\2"),
    (r"(transformer\.layers\.\d+\.)norm_cross\.(weight|bias)", r"\1cross_norm.\2"),
    (r"(transformer\.layers\.\d+\.)norm2\.(weight|bias)", r"\1feedforward_norm.\2"),
    (r"(transformer\.layers\.\d+\.)linear1\.weight", r"\1expand.weight"),
    (r"(transformer\.layers\.\d+\.)linear2\.weight", r"\1contract.weight"),
)


def name_from_audiocraft(name: str) -> str:
    """This model's name of a parameter that AudioCraft's `LMModel` calls `name`; ValueError for an unknown one."""
    for expression, replacement in _AUDIOCRAFT_NAMES:
        if (found := re.fullmatch(expression, name)) is not None:
            return found.expand(replacement)
    raise ValueError(f"expected a parameter of AudioCraft's language model, got {name!r}")
