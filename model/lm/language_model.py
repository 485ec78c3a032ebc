"""The language model of MusicGen over K interleaved codebooks (arXiv:2306.05284): embeddings, decoder, heads.

The input is the sum of one embedding a codebook, which the conditions join (`model.lm.fuser`). Stereo models are made
of mono ones by `stereo_configuration` and `stereo_weights`.
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
    """Logits for every code, and which of them are predictions that count; elsewhere logits mean nothing."""

    logits: Float[Tensor, "B K T V"]
    mask: Bool[Tensor, "B K T"]


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
        """Return the layout of the codes of so many frames."""
        return pattern_of(self.config, frames)

    def embed(self, sequence: Int[Tensor, "B K S"]) -> Float[Tensor, "B S D"]:
        """Return the sum of the embeddings of all codebooks."""
        embedded: Tensor = self.embeddings[0](sequence[:, 0])
        for codebook in range(1, self.config.codebooks):
            embedded = embedded + self.embeddings[codebook](sequence[:, codebook])
        return embedded

    def fuse(self, conditions: Mapping[str, Condition], pattern: Pattern, mode: Mode = "full") -> FusedConditions:
        """Bring conditions into the form that the decoder takes: see `model.lm.fuser.fuse`."""
        return fuse(self.config, conditions, pattern, mode)

    def logits(self, hidden: Float[Tensor, "B S D"]) -> Float[Tensor, "B K S V"]:
        """Return what each codebook's head predicts of the next step."""
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
        Codes may be on the host, as in `loss`.

        Raises:
            ValueError: codes of another shape or out of range, lengths outside 1 … T, or wrong conditions.
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

        Codes are brought into the order of the predictions instead of these into the order of the codes, and codebook
        after codebook is compared, which takes less time and memory.

        NaN for a codebook without a single prediction (recordings no longer than its delay). Codes may be on the host:
        they are looked over where they are, so that nothing waits for the device. Raises as `forward` does.
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
        """Return which frames are no padding. Raises as `forward` does for codes and lengths."""
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
        """Return hidden states of every step but the last, after which nothing is left to predict."""
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
        """Raise ValueError unless all of these are entries of a codebook."""
        lowest, highest = torch.stack(codes.aminmax()).tolist()
        if lowest < 0 or highest >= self.config.cardinality:
            raise ValueError(f"expected codes from 0 to {self.config.cardinality - 1}, got {lowest} to {highest}")


def pattern_of(config: LanguageModelConfig, frames: int) -> Pattern:
    """Return the layout of the codes of so many frames in a model so configured."""
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
    """Give each codebook of a decoder twice, the two equally late: delays 0, 1, 2, 3 become 0, 0, 1, 1, 2, 2, 3, 3.

    MusicGen's stereo models are made so (arXiv:2306.05284; AudioCraft's `stereo_finetune`): a codec that knows one
    channel encodes left and right each on its own, and their codes take turns. Codebook 2k is the left channel's
    codebook k, 2k + 1 the right one's.

    Raises:
        ValueError: a pattern other than `delay`, or one that opens with flattened frames: these order codebooks in ways
            that have no such double.
    """
    if mono.pattern != "delay":
        raise ValueError(f"expected a mono model with the pattern delay to make stereo of, got {mono.pattern}")
    if mono.flatten_first:
        raise ValueError(f"expected a mono model without flatten_first to make stereo of, got {mono.flatten_first}")
    delays = tuple(delay for delay in mono.codebook_delays for _ in ("left", "right"))
    return mono.model_copy(update={"codebooks": 2 * mono.codebooks, "delays": delays})


def stereo_weights(mono: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make the weights of a stereo model (`MusicModel.weights`) of those of a mono one.

    Both channels get a copy of what the mono model knows of a codebook. Inputs are sums of embeddings, so the copies of
    an embedding are halved: with the same codes on both sides every layer sees what it saw in mono, and each head says
    what it said. Training from there only has to learn how the sides differ. What belongs to no codebook is the same
    tensor.
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
