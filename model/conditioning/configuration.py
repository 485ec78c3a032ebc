"""The knobs of the conditioners, and of the music model as a whole (MusicGen, arXiv:2306.05284, 2.3 and 2.4).

They stand apart from the networks, so that a plan, which needs every knob, need not load torch.
"""

from typing import Literal

from pydantic import Field, model_validator

from model.configuration import LanguageModelConfig
from schemas import Config


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
