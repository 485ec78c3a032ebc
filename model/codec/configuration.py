"""The knobs of a codec and of its training (EnCodec, arXiv:2210.13438).

They stand apart from the networks, so that a plan, which needs every knob, need not load torch.
"""

import math
from typing import Literal

from pydantic import Field

from model.learning import OptimizationConfig
from schemas import Config


class QuantizerConfig(Config):
    """How codebooks learn."""

    decay: float = 0.99
    """Of the moving averages of counts and sums, a step (EnCodec, 3.2)."""
    epsilon: float = 1e-5
    """Laplace smoothing of the counts, in vectors (AudioCraft)."""
    dead_code_share: float = 0.1
    """A code whose moving count is under this share of the mean count is replaced by a vector of the batch; 0 replaces
    none. (Published: an absolute count of 2 a batch, which says nothing without the batch's size.)"""
    kmeans_iterations: int = 50
    """Lloyd's iterations of the start (EnCodec, 3.2)."""
    dropout: float = 0.0
    """Share of the items that train with a random number of codebooks, 1 to K (SoundStream, III-C)."""


class SpectralLossConfig(Config):
    """The scales and the weighting of the multi-scale mel loss; defaults from AudioCraft's EnCodec."""

    range_start: int = 6
    """Log2 of the smallest FFT, samples."""
    range_end: int = 11
    """Log2 of the FFT after the largest, samples."""
    mel_bands: int = 64
    """Bands of the mel filter bank at every scale."""
    lowest_frequency: float = 64.0
    """Lower edge of the filter bank, Hz."""
    highest_frequency: float | None = None
    """Upper edge, Hz; None is half the sample rate."""
    floor: float = 1e-5
    """Added to the power before the logarithm."""
    linear_weight: float = 1.0
    """Of the part on mel power, whose few loudest bands outweigh all others."""
    logarithm: Literal["square", "absolute"] = "square"
    """Distance of logarithms: mean square as published, or mean absolute difference."""
    normalized: bool = False
    """Divide spectra by the norm of their window, and the sum over scales by the sum of its weights."""
    weighted_logarithm: bool = True
    """Weight a scale's logarithmic part by sqrt(FFT size - 1), which evens out the two parts' gradients; else by 1."""


class CodecConfig(Config):
    """The network; the defaults are those of EnCodec for music at 32 kHz (MusicGen, arXiv:2306.05284, 3.1)."""

    sample_rate: int = Field(default=32_000, ge=1_000)
    """Hz."""
    channels: int = Field(default=1, ge=1, le=2)
    """Channels of the audio."""
    filters: int = Field(default=64, ge=1)
    """Channels of the first convolution; they double with every ratio."""
    ratios: tuple[int, ...] = Field(default=(8, 5, 4, 4), min_length=1)
    """Strides in the decoder's order; their product is the hop, in samples."""
    width: int = Field(default=128, ge=1)
    """Of the latents and the codebooks' entries."""
    residual_layers: int = Field(default=1, ge=1)
    """Residual blocks at each ratio."""
    lstm_layers: int = Field(default=2, ge=1)
    """Recurrent layers around the bottleneck."""
    causal: bool = False
    """Whether a frame sees only its past."""
    codebooks: int = Field(default=4, ge=1)
    """K, the levels of the residual quantiser."""
    cardinality: int = Field(default=2048, ge=2)
    """V, the entries of a codebook; a power of two, as transformers counts bits."""

    @property
    def hop(self) -> int:
        """Samples a frame."""
        return math.prod(self.ratios)


class CodecTrainingConfig(Config):
    """What is minimised. Optimiser and data are AudioCraft's for EnCodec; the loss weights are for a sum without
    discriminator and balancer."""

    optimization: OptimizationConfig = OptimizationConfig(
        steps=600_000,
        learning_rate=3e-4,
        warmup_steps=0,
        betas=(0.5, 0.9),
        weight_decay=0.0,
        ema_interval=1,
        precision="float32",
    )
    """How the weights move. The codebooks are averaged like the weights."""
    batch_size: int = Field(default=64, ge=1)
    """Segments a step."""
    segment: float = Field(default=1.0, gt=0)
    """Length of a segment, seconds."""
    waveform_weight: float = Field(default=20.0, ge=0)
    """Of the L1 of the waveform. With 1, a small network did not find the phase in thousands of steps."""
    spectral_weight: float = Field(default=1.0, ge=0)
    """Of the spectral loss."""
    commitment_weight: float = Field(default=1.0, ge=0)
    """Of the commitment loss."""
    quantizer: QuantizerConfig = QuantizerConfig()
    """How codebooks learn."""
    quantizer_start: int = Field(default=0, ge=0)
    """Steps as a plain autoencoder, before the codebooks start."""
    start_batches: int = Field(default=16, ge=1)
    """Batches whose latents the codebooks start from."""
    spectral: SpectralLossConfig = SpectralLossConfig(linear_weight=0.0, logarithm="absolute", weighted_logarithm=False)
    """The spectral loss. The published form needs EnCodec's balancer of gradients: in a plain sum it drowns the
    waveform's part and the network answers with silence; logarithms alone, equally weighted, do not."""
