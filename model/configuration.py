"""The knobs of the music model (MusicGen, arXiv:2306.05284): the decoder's, the conditioners', and both together.

They stand apart from the networks, so that a plan, which needs every knob, need not load torch.
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
    """Conditions of length 1 added to every step."""
    interpolate: tuple[str, ...] = ()
    """Conditions stretched over the steps and added."""
    interpolate_steps: int | None = Field(None, ge=1)
    """Steps over which they are stretched; None is the sequence's own, as in AudioCraft. The steps of a training window
    keep a melody's pace in sequences of any length: a longer one stays at the condition's last vector."""
    cross_positions: bool = False
    """Whether positions are added to what cross-attention reads (AudioCraft: `cross_attention_pos_emb`)."""
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


class TextConfig(Config):
    """A description read by a T5 encoder."""

    width: int = Field(768, ge=1)
    """Width of the encoder's output (t5-base)."""
    finetune: bool = False
    """Whether the encoder learns with the language model (AudioCraft: `finetune`)."""
    max_tokens: int = Field(512, ge=2)
    """Longer descriptions are cut, tokens (the length T5 was trained with)."""


class ChromaConfig(Config):
    """A melody: the pitch class that dominates each frame."""

    frames: int = Field(235, ge=1)
    """Frames of the condition, 7.8125 a second (30 s); a shorter melody is repeated, a longer one is cut."""
    null: Literal["zeros", "first_bin"] = "zeros"
    """No melody is zeros, unlike any melody; or, as in musicgen-melody, the projection of an endless C."""
    one_hot: bool = True
    """Only the strongest pitch class of a frame counts (AudioCraft: `chroma_stem.argmax`), so that the melody says
    nothing of timbre (arXiv:2306.05284, 2.3)."""


class ClapConfig(Config):
    """A point of the joint space of text and audio (LAION-CLAP, arXiv:2211.06687)."""

    width: int = Field(512, ge=1)
    """E, width of the embedding."""


class MusicModelConfig(Config):
    """A language model and the conditions it reads; the defaults are musicgen-small."""

    language_model: LanguageModelConfig = LanguageModelConfig()
    """The decoder; its `cross`, `prepend`, `sum` and `interpolate` say how each condition joins."""
    description: TextConfig | None = TextConfig()
    """Text; None does without."""
    chroma: ChromaConfig | None = None
    """Melody; None does without."""
    clap: ClapConfig | None = None
    """Joint embedding; None does without."""

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the conditions, in the order in which they are fused."""
        present = {"description": self.description, "chroma": self.chroma, "clap": self.clap}
        return tuple(name for name, config in present.items() if config is not None)

    @model_validator(mode="after")
    def _all_are_fused(self) -> "MusicModelConfig":
        if frozenset(self.conditions) != self.language_model.conditions:
            raise ValueError(
                f"expected the language model to fuse {sorted(self.conditions)}, "
                f"got cross, prepend, sum and interpolate of {sorted(self.language_model.conditions)}"
            )
        return self
