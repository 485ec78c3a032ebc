"""The knobs of the stand-ins for published weights.

They stand apart from the networks, so that a plan, which needs every knob, need not load torch.
"""

from pydantic import Field

from model.optim.config import ContrastiveConfig, SeparationConfig
from schemas import Config


class SeparatorConfig(Config):
    """The network and its training. The published htdemucs has 48 channels, an STFT of 4096 and 5 layers at 44.1
    kHz."""

    channels: int = Field(default=16, ge=8)
    """Channels of the outermost layer; each further layer has twice as many."""
    fft: int = Field(default=1024, ge=256)
    """STFT window, samples."""
    depth: int = Field(default=4, ge=1)
    """Layers of encoder and decoder."""
    bottom_channels: int = Field(default=64, ge=8)
    """Width of the transformer between encoder and decoder."""
    layers: int = Field(default=1, ge=1)
    """Layers of that transformer."""
    heads: int = Field(default=4, ge=1)
    """Its heads."""
    training: SeparationConfig = SeparationConfig()
    """How it learns."""


class ClapStandInConfig(Config):
    """The network and its training. The published HTSAT-base has 128 channels, 12 blocks and 512 dimensions at 48
    kHz."""

    width: int = Field(default=64, ge=16)
    """Channels of the first audio layer; the second has twice as many."""
    blocks: tuple[int, ...] = (1, 1)
    """Transformer blocks of each audio layer."""
    heads: tuple[int, ...] = (4, 8)
    """Attention heads of each audio layer."""
    patch: int = Field(default=8, ge=2)
    """Spectrogram bins and frames that are one audio token."""
    text_width: int = Field(default=64, ge=16)
    """Width of the text transformer."""
    text_layers: int = Field(default=2, ge=1)
    """Its layers."""
    embedding: int = Field(default=64, ge=8)
    """Dimensions of the joint space."""
    vocabulary: int = Field(default=700, ge=300)
    """Largest number of tokens."""
    training: ContrastiveConfig = ContrastiveConfig()
    """How it learns."""


class TextEncoderConfig(Config):
    """The network. The published t5-base has 12 layers of 768."""

    width: int = Field(default=96, ge=8)
    """Width of the encoder, and so of the text condition."""
    layers: int = Field(default=2, ge=1)
    """Transformer layers."""
    heads: int = Field(default=4, ge=1)
    """Attention heads."""
    vocabulary: int = Field(default=700, ge=300)
    """Largest number of tokens."""
