"""The knobs of the codec's training."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator

import schemas
from model.codec.config import CodecConfig, CodecTrainingConfig
from schemas.licences import LicencePolicy


class Config(schemas.Config):
    """How a codec is trained; the defaults are those of the 32 kHz EnCodec of MusicGen (arXiv:2306.05284, 3.1) in
    AudioCraft's config/solver/compression/encodec_musicgen_32khz.yaml."""

    NOT_IDENTITY: ClassVar[tuple[str, ...]] = (
        *("licences", "refresh", "log_every", "valid_every", "save_every"),
        *("reconstructions", "reconstruction_seconds"),
    )

    network: CodecConfig = CodecConfig()
    """The network that is trained."""
    training: CodecTrainingConfig = CodecTrainingConfig()
    """The losses, the optimiser and the number of steps."""
    seed: int = Field(default=0, ge=0)
    """Seed of the initial weights, the order of the data and all draws."""
    gain: tuple[float, float] = (0.0, 0.0)
    """Smallest and largest change of a segment's level, dB; drawn uniformly between them (EnCodec, 4.1: -10 to 6)."""
    mix: float = Field(default=0.0, ge=0, le=1)
    """Probability that a segment is the sum of two, each with its own gain (EnCodec, 4.1: 0.24)."""
    largest_silence: float = Field(default=0.9, ge=0, le=1)
    """Recordings with a larger share of silence are left out."""
    upsample: bool = False
    """Whether recordings of a lower sample rate than the network's are used too. They hold no sound above half of their
    rate, and a codec that learns from them learns to produce none there."""
    held_out_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training tracks that are held out, chosen by hash, where the split `valid` is empty."""
    held_out_seconds: float = Field(default=10.0, gt=0)
    """Length of each recording, from its start, that the codec is evaluated on, seconds."""
    held_out_tracks: int = Field(default=64, ge=1)
    """Most recordings of a split that the codec is evaluated on, chosen by hash."""
    reconstructions: int = Field(default=4, ge=0)
    """Held-out recordings whose beginnings are kept for listening, both the original and the codec's reconstruction."""
    reconstruction_seconds: float = Field(default=8.0, gt=0)
    """Largest length of each that is kept, seconds."""
    licences: LicencePolicy = LicencePolicy()
    """Licences of the recordings that may be learned from; a recording with another one ends the training before it
    begins. In a recipe it is `ingest.licences` unless it is given."""
    refresh: Literal["missing", "changed", "never"] = "missing"
    """When a run of the whole catalog trains: where this recipe has no checkpoint yet, whenever its data changed, or
    never. Asking for the stage by name always trains."""
    log_every: int = Field(default=50, ge=1)
    """Steps between two rows of `training`."""
    valid_every: int = Field(default=500, ge=1)
    """Steps between two validations."""
    save_every: int = Field(default=250, ge=1)
    """Steps between two saves of the state: what a killed training loses at most."""

    @field_validator("gain")
    @classmethod
    def _gain_is_a_range(cls, gain: tuple[float, float]) -> tuple[float, float]:
        if not -60 <= gain[0] <= gain[1] <= 60:
            raise ValueError(f"expected the smallest and the largest gain, from -60 to 60 dB, got {gain}")
        return gain
