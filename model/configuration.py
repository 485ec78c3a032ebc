"""The knobs of the decoder (MusicGen, arXiv:2306.05284).

They stand apart from the network, so that a plan, which needs every knob, need not load torch.
"""

from typing import Literal

from pydantic import Field, model_validator

from schemas import Config


class LanguageModelConfig(Config):
    """Size and form of the language model; the defaults are musicgen-small (arXiv:2306.05284, 4)."""

    codebooks: int = Field(4, ge=1)
    """K, codebooks of the codec."""
    cardinality: int = Field(2048, ge=2)
    """V, entries of a codebook; the special token is the one after them."""
    width: int = Field(1024, ge=4)
    """D, width of the decoder."""
    heads: int = Field(16, ge=1)
    """Attention heads."""
    layers: int = Field(24, ge=1)
    """Decoder layers."""
    feedforward_multiplier: int = Field(4, ge=1)
    """Width of the feed-forward layers, in widths of the decoder."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropped share of activations and attention weights (AudioCraft: `transformer_lm.dropout`)."""
    pattern: Literal["delay", "unroll", "coarse_first", "grouped"] = "delay"
    """Order of the codes (arXiv:2306.05284, 2.1)."""
    delays: tuple[int, ...] | None = None
    """Steps by which each codebook is late; None is 0, 1, … K - 1 for `delay` and all 0 for the other patterns."""
    group: int = Field(2, ge=1)
    """Codebooks of a group in the `grouped` pattern (AudioCraft: `music_lm.group_by`)."""
    cross: tuple[str, ...] = ("description",)
    """Conditions that cross-attention reads; none means no cross-attention layers."""
    prepend: tuple[str, ...] = ()
    """Conditions put before the codes (musicgen-melody: description and chroma)."""
    sum: tuple[str, ...] = ()
    """Conditions that are added: one of length 1 to every step, a longer one frame by frame."""
    interpolate: tuple[str, ...] = ()
    """Conditions stretched over the steps and added."""
    interpolate_steps: int | None = Field(None, ge=1)
    """Steps over which they are stretched; None is the sequence's own, as in AudioCraft. The steps of a training window
    keep a melody's pace in sequences of any length: a longer one stays at the condition's last vector."""
    cross_positions: bool = False
    """Whether positions are added to what cross-attention reads (AudioCraft: `cross_attention_pos_emb`)."""
    padding: Literal["masked", "attended"] = "masked"
    """What cross-attention makes of the zeros that fill a condition up to the longest of its batch: no keys, as in
    transformers, so that a batch equals its rows alone; or keys like any other (AudioCraft, in training too)."""
    position_period: float = Field(10_000.0, gt=1)
    """Longest period of the sinusoidal positions, steps / 2π."""

    @property
    def codebook_delays(self) -> tuple[int, ...]:
        """One delay a codebook."""
        if self.delays is not None:
            return self.delays
        return tuple(range(self.codebooks)) if self.pattern == "delay" else (0,) * self.codebooks

    @property
    def conditions(self) -> frozenset[str]:
        """Names of all conditions that the model reads."""
        return frozenset(self.cross + self.prepend + self.sum + self.interpolate)

    @model_validator(mode="after")
    def _fits(self) -> "LanguageModelConfig":
        if self.width % (2 * self.heads):
            raise ValueError(
                f"expected a width that is a multiple of 2 * heads, got {self.width} and {self.heads} heads"
            )
        if len(self.codebook_delays) != self.codebooks or min(self.codebook_delays) < 0:
            raise ValueError(f"expected {self.codebooks} delays, each 0 or more, got {self.delays}")
        if self.pattern == "grouped" and self.codebooks % self.group:
            raise ValueError(f"expected a group that divides {self.codebooks} codebooks, got {self.group}")
        return self
