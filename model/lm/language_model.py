"""The language model of MusicGen over K interleaved codebooks (arXiv:2306.05284): embeddings, decoder, heads.

The input of a step is the sum of one embedding a codebook; conditions join it as `model.lm.fuser` describes.
`stereo_configuration` and `stereo_weights` turn a mono model into a stereo model.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from model.kernels.cross_entropy import IGNORED, summed_cross_entropy
from model.lm import patterns
from model.lm.config import LanguageModelConfig
from model.lm.fuser import Condition, FusedConditions, fuse
from model.lm.patterns import Mode, Pattern
from model.lm.transformer import Transformer, initialise


class Prediction(NamedTuple):
    """Logits for every code, and a mask of the codes that are predicted."""

    logits: Float[Tensor, "B K T V"]
    mask: Bool[Tensor, "B K T"]
    """Which codes are predicted; the logits of the others mean nothing."""


class Loss(NamedTuple):
    """Cross-entropy in nats: the mean over codebooks, and each codebook's own."""

    mean: Float[Tensor, ""]
    codebooks: Float[Tensor, "K"]


class LanguageModel(nn.Module):
    """A decoder-only transformer that predicts the codes of K codebooks from earlier ones and from conditions."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config, self.special = config, config.cardinality
        self.embeddings = nn.ModuleList(
            nn.Embedding(config.cardinality + 1, config.width) for _ in range(config.codebooks)
        )
        self.transformer = Transformer(config)
        self.out_norm: nn.Module = nn.LayerNorm(config.width) if config.norm == "before" else nn.Identity()
        self.heads = nn.ModuleList(
            nn.Linear(config.width, config.cardinality, bias=config.head_bias) for _ in range(config.codebooks)
        )
        for module in (*self.embeddings, *self.heads):
            assert isinstance(module, nn.Embedding | nn.Linear)
            initialise(module)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.parameters()).dtype

    def pattern(self, frames: int) -> Pattern:
        """Return the layout of the codes of `frames` frames."""
        return pattern_of(self.config, frames)

    def embed(self, sequence: Int[Tensor, "B K S"]) -> Float[Tensor, "B S D"]:
        """Return for each step the sum of the embeddings of all codebooks."""
        embedded: Tensor = self.embeddings[0](sequence[:, 0])
        for codebook in range(1, self.config.codebooks):
            embedded = embedded + self.embeddings[codebook](sequence[:, codebook])
        return embedded

    def fuse(self, conditions: Mapping[str, Condition], pattern: Pattern, mode: Mode = "full") -> FusedConditions:
        """Bring conditions into the form that the decoder reads: see `model.lm.fuser.fuse`."""
        return fuse(self.config, conditions, pattern, mode)

    def logits(self, hidden: Float[Tensor, "B S D"]) -> Float[Tensor, "B K S V"]:
        """Return the logits of each codebook for the next step."""
        normed = self.out_norm(hidden)
        return torch.stack([head(normed) for head in self.heads], dim=1)

    def forward(
        self,
        codes: Int[Tensor, "B K T"],
        conditions: Mapping[str, Condition],
        lengths: Int[Tensor, "B"] | None = None,
        mode: Mode = "valid",
    ) -> Prediction:
        """Predict every code from the codes before it in the pattern.

        Frames from `lengths` on are padding: the model sees the special token there, and does not predict them. Codes
        may be on the host, as in `loss`.

        Raises:
            ValueError: codes have another shape or are out of range, lengths are outside 1 … T, or conditions are
                wrong.
        """
        inside = self._inside(codes, lengths)
        pattern = self.pattern(codes.shape[-1])
        sequence = pattern.build(torch.where(inside[:, None], codes, self.special), self.special, mode)
        sequence = sequence.to(self.device, non_blocking=True)
        hidden = self._hidden_states(sequence, conditions, pattern, mode)
        logits, mask = pattern.revert_outputs(self.logits(hidden), mode, fill=0.0)
        return Prediction(logits, mask & inside[:, None].to(logits.device, non_blocking=True))

    def loss(
        self,
        codes: Int[Tensor, "B K T"],
        conditions: Mapping[str, Condition],
        lengths: Int[Tensor, "B"] | None = None,
    ) -> Loss:
        """Return the cross-entropy of what `forward` predicts: a mean over a codebook's positions, then over codebooks.

        It is NaN for a codebook without any prediction (recordings no longer than its delay).

        The codes are brought into the order of the predictions, not the other way round, and one codebook after another
        is compared: this takes less time and memory. Codes may be on the host: they are checked where they are, so that
        nothing waits for the device. Raises the same errors as `forward`.
        """
        inside = self._inside(codes, lengths)
        pattern = self.pattern(codes.shape[-1])
        sequence = pattern.build(torch.where(inside[:, None], codes, self.special), self.special, "valid")
        sequence = sequence.to(self.device, non_blocking=True)
        normed = self.out_norm(self._hidden_states(sequence, conditions, pattern, "valid")).flatten(0, 1)
        targets = sequence[:, :, 1:].transpose(0, 1).flatten(1)
        targets = torch.where(targets == self.special, IGNORED, targets)
        sums = [summed_cross_entropy(head(normed), wanted) for head, wanted in zip(self.heads, targets, strict=True)]
        codebooks = torch.stack(sums) / (targets >= 0).sum(1)
        return Loss(codebooks.mean(), codebooks)

    def _inside(self, codes: Int[Tensor, "B K T"], lengths: Int[Tensor, "B"] | None) -> Bool[Tensor, "B T"]:
        """Return which frames are not padding. Raises the same errors as `forward` for codes and lengths."""
        if codes.ndim != 3 or codes.shape[1] != self.config.codebooks or not codes.numel():
            raise ValueError(f"expected codes [B, {self.config.codebooks}, T], got {list(codes.shape)}")
        batch, _, frames = codes.shape
        inside = torch.ones((batch, frames), dtype=torch.bool, device=codes.device)
        if lengths is not None:
            if lengths.shape != (batch,) or lengths.min() < 1 or lengths.max() > frames:
                raise ValueError(f"expected {batch} lengths from 1 to {frames}, got {lengths.tolist()}")
            inside = torch.arange(frames, device=codes.device) < lengths.to(codes.device)[:, None]
        self.check_range(torch.where(inside[:, None], codes, 0))
        return inside

    def _hidden_states(
        self, sequence: Int[Tensor, "B K S"], conditions: Mapping[str, Condition], pattern: Pattern, mode: Mode
    ) -> Float[Tensor, "B S-1 D"]:
        """Return the hidden states of every step except the last, which has nothing left to predict."""
        for name, condition in conditions.items():
            if len(condition.embedding) != len(sequence):
                got = len(condition.embedding)
                raise ValueError(f"expected {name} of {len(sequence)} rows, as the codes, got {got}")
        embedded = self.embed(sequence[:, :, :-1])
        steps = embedded.shape[1]
        fused = self.fuse(conditions, pattern, mode)
        if fused.added is not None:
            embedded = embedded + fused.added[:, :steps]
        if fused.prefix is not None:
            embedded = torch.cat([fused.prefix.to(embedded.dtype), embedded], dim=1)
        hidden: Tensor = self.transformer(embedded, fused.cross, fused.cross_mask)
        return hidden[:, -steps:]

    def check_range(self, codes: Int[Tensor, "..."]) -> None:
        """Raise ValueError unless all codes are from 0 to `cardinality` - 1."""
        lowest, highest = torch.stack(codes.aminmax()).tolist()
        if lowest < 0 or highest >= self.config.cardinality:
            raise ValueError(f"expected codes from 0 to {self.config.cardinality - 1}, got {lowest} to {highest}")


def pattern_of(config: LanguageModelConfig, frames: int) -> Pattern:
    """Return the layout of the codes of `frames` frames in a model of this configuration."""
    match config.pattern:
        case "delay":
            return patterns.delayed(frames, config.codebook_delays, config.flatten_first, config.empty_initial)
        case "unroll":
            flattening = tuple(range(config.codebooks)) if config.flattening is None else config.flattening
            return patterns.unrolled(frames, flattening, config.codebook_delays)
        case "coarse_first":
            return patterns.coarse_first(frames, config.codebook_delays[1:])
        case "grouped":
            return patterns.grouped(frames, config.codebooks, config.group)


_BY_CODEBOOK = re.compile(r"(?P<kind>language_model\.(?:embeddings|heads)\.)(?P<codebook>\d+)(?P<rest>\.\w+)")


def stereo_configuration(mono: LanguageModelConfig) -> LanguageModelConfig:
    """Duplicate each codebook of a configuration, with equal delays: 0, 1, 2, 3 becomes 0, 0, 1, 1, 2, 2, 3, 3.

    MusicGen's stereo models are made this way (arXiv:2306.05284; AudioCraft's `stereo_finetune`). A mono codec encodes
    the left and right channels separately, and their codes are interleaved: codebook 2k is codebook k of the left
    channel, and codebook 2k + 1 that of the right channel.

    Raises:
        ValueError: the pattern is not `delay`, or it begins with flattened frames; such orders of codebooks cannot be
            duplicated this way.
    """
    if mono.pattern != "delay":
        raise ValueError(f"expected a mono model with the pattern delay to make stereo of, got {mono.pattern}")
    if mono.flatten_first:
        raise ValueError(f"expected a mono model without flatten_first to make stereo of, got {mono.flatten_first}")
    delays = tuple(delay for delay in mono.codebook_delays for _ in ("left", "right"))
    return mono.model_copy(update={"codebooks": 2 * mono.codebooks, "delays": delays})


def stereo_weights(mono: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make the weights of a stereo model from those of a mono model (both as `MusicModel.weights` returns them).

    Both channels get copies of the mono model's embedding and head of each codebook. Inputs are sums of embeddings, so
    the copied embeddings are halved: with the same codes in both channels, every layer gets the same input as in mono,
    and each head gives the same logits. Training then only has to learn how the channels differ. Weights that do not
    belong to a codebook are the same tensors.
    """
    stereo: dict[str, Tensor] = {}
    for name, value in mono.items():
        match = _BY_CODEBOOK.fullmatch(name)
        if match is None:
            stereo[name] = value
            continue
        copied = value / 2 if match["kind"].endswith("embeddings.") else value
        for side in range(2):
            stereo[f"{match['kind']}{2 * int(match['codebook']) + side}{match['rest']}"] = copied.clone()
    return stereo
