"""The knobs of the demo corpus and of the stand-ins for published weights.

They are separate from the networks because a plan needs every knob, and should not have to load torch.
"""

from typing import ClassVar, Literal

from pydantic import Field

import schemas
from model.optim.config import OptimizationConfig


class Config(schemas.Config):
    """The demo corpus."""

    seed: int = Field(default=0, ge=0)
    """Another seed gives another corpus."""
    pieces: int = Field(default=96, ge=1, le=10_000)
    """Number of pieces. Artists take turns: 16 pieces in a row are of 16 artists."""
    sample_rate: int = Field(default=16_000, ge=8_000)
    """Sample rate of the files, Hz."""


class SeparatorTrainingConfig(schemas.Config):
    """How a separator is trained."""

    segment_seconds: float = Field(default=2.0, gt=0)
    """Length of the excerpts that it learns from, and of what the network processes at once, seconds."""
    batch_size: int = Field(default=4, ge=1)
    """Excerpts a step."""
    optimization: OptimizationConfig = OptimizationConfig(
        steps=120,
        learning_rate=3e-3,
        warmup_steps=10,
        weight_decay=0.0,
        ema_decay=0.9,
        ema_interval=1,
        precision="float32",
    )
    """The optimisation: two minutes of one core, where the published models took weeks."""


class ClapTrainingConfig(schemas.Config):
    """How CLAP's audio and text sides are trained."""

    batch_size: int = Field(default=32, ge=2)
    """Pairs a step. Each pair is contrasted with all others of its batch."""
    gain: float = Field(default=6.0, ge=0)
    """Spectrograms are made louder or softer by up to this, dB."""
    optimization: OptimizationConfig = OptimizationConfig(
        steps=200,
        learning_rate=2e-3,
        warmup_steps=10,
        betas=(0.9, 0.98),
        weight_decay=0.05,
        ema_decay=0.9,
        ema_interval=1,
        precision="float32",
    )
    """The optimisation."""


class SeparatorConfig(schemas.Config):
    """The network and its training. The published htdemucs has 48 channels, an STFT of 4096 and 5 layers at 44.1
    kHz."""

    sample_rate: int = Field(default=16_000, ge=8_000)
    """Sample rate at which it separates, Hz. Recordings are resampled to it first, so half the rate is half the
    work."""
    channels: int = Field(default=16, ge=8)
    """Channels of the outermost layer; each further layer has twice as many."""
    fft: int = Field(default=1024, ge=256)
    """STFT window, samples."""
    depth: int = Field(default=4, ge=1)
    """Layers of encoder and decoder."""
    bottom_channels: int = Field(default=64, ge=8)
    """Width of the transformer between encoder and decoder."""
    layers: int = Field(default=1, ge=0)
    """Layers of that transformer. 0 leaves it out, which is Hybrid Demucs (arXiv:2111.03600) in HTDemucs' form."""
    heads: int = Field(default=4, ge=1)
    """Attention heads of that transformer."""
    training: SeparatorTrainingConfig = SeparatorTrainingConfig()
    """How the separator is trained."""


class ClapStandInConfig(schemas.Config):
    """The network and its training. The published HTSAT-base has 128 channels, 12 blocks and 512 dimensions at 48
    kHz."""

    width: int = Field(default=64, ge=16)
    """Channels of the first audio layer; the second has twice as many."""
    blocks: tuple[int, ...] = (1, 1)
    """Transformer blocks of each audio layer."""
    heads: tuple[int, ...] = (4, 8)
    """Attention heads of each audio layer."""
    patch: int = Field(default=8, ge=2)
    """Side of the square of spectrogram bins and frames that is one audio token."""
    text_width: int = Field(default=64, ge=16)
    """Width of the text transformer."""
    text_layers: int = Field(default=2, ge=1)
    """Layers of the text transformer."""
    embedding: int = Field(default=64, ge=8)
    """Dimensions of the joint space."""
    vocabulary: int = Field(default=700, ge=300)
    """Largest number of tokens."""
    training: ClapTrainingConfig = ClapTrainingConfig()
    """How CLAP is trained."""


class TextEncoderConfig(schemas.Config):
    """The network. The published t5-base has 12 layers of 768."""

    width: int = Field(default=96, ge=8)
    """Width of the encoder, and so of the text condition."""
    layers: int = Field(default=2, ge=1)
    """Transformer layers."""
    heads: int = Field(default=4, ge=1)
    """Attention heads."""
    vocabulary: int = Field(default=700, ge=300)
    """Largest number of tokens."""


class DemoModelsConfig(schemas.Config):
    """The stand-ins that are trained, and the amount of music for it."""

    NOT_IDENTITY: ClassVar[tuple[str, ...]] = ("refresh",)

    seed: int = Field(default=0, ge=0)
    """The music, the initial weights and all random draws follow from it."""
    sample_rate: int = Field(default=16_000, ge=8_000)
    """Sample rate of CLAP, Hz."""
    pieces: int = Field(default=288, ge=32)
    """Number of pieces that separator and CLAP learn from. They are composed for this, and are in no demo corpus."""
    held_out: int = Field(default=32, ge=4)
    """Number of further pieces that separator and CLAP are evaluated on."""
    separator: SeparatorConfig = SeparatorConfig()
    """The stand-in for htdemucs."""
    clap: ClapStandInConfig = ClapStandInConfig()
    """The stand-in for LAION's music CLAP."""
    text_encoder: TextEncoderConfig = TextEncoderConfig()
    """The stand-in for T5."""
    refresh: Literal["missing", "changed", "never"] = "missing"
    """When a run of the whole catalog trains them again. The models depend only on this configuration, so `missing` and
    `changed` do the same."""
