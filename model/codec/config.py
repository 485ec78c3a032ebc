"""The knobs of a codec and of its training (EnCodec, arXiv:2210.13438).

They are in a file without torch, so that a plan, which needs every knob, need not load torch.
"""

import math
from typing import Literal, TypeVar

from pydantic import Field, model_validator

from model.optim.config import OptimizationConfig
from schemas import Config

Resolutions = TypeVar("Resolutions", "StftLossConfig", "SpectrogramDiscriminatorConfig")
"""A configuration with FFTs, hops and windows."""


def _one_for_each_fft(config: Resolutions) -> Resolutions:
    sizes = (len(config.ffts), len(config.hops), len(config.windows))
    if len(set(sizes)) != 1:
        raise ValueError(
            f"expected one hop and one window for each FFT, got {sizes[0]} FFTs, {sizes[1]} hops and {sizes[2]} windows"
        )
    if any(window > fft for window, fft in zip(config.windows, config.ffts, strict=True)):
        raise ValueError(f"expected windows no longer than their FFTs, got {config.windows} in {config.ffts}")
    return config


class QuantizerConfig(Config):
    """How codebooks learn."""

    decay: float = 0.99
    """Decay of the moving averages of counts and sums, a step (EnCodec, 3.2)."""
    epsilon: float = 1e-5
    """Laplace smoothing of the counts, in vectors (AudioCraft)."""
    dead_code_share: float = 0.1
    """A code whose moving count is below this share of the mean count is replaced by a vector of the batch; 0 replaces
    none. (The published threshold is a count of 2 a batch, which depends on the batch size.)"""
    kmeans_iterations: int = 50
    """Lloyd's iterations when the codebooks are set first (EnCodec, 3.2)."""
    dropout: float = Field(default=0.0, ge=0, le=1)
    """Share of the items that train with a random number of codebooks (SoundStream, III-C): 1 to K, or one of the
    network's `bandwidths` if it has any (EnCodec, 3.2)."""


class SpectralLossConfig(Config):
    """Scales and weights of the multi-scale mel loss; the defaults are AudioCraft's for EnCodec (`msspec` in
    config/solver/compression/default.yaml)."""

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
    """Weight of the distance of mel power, in which the few loudest bands outweigh all others."""
    logarithm: Literal["square", "absolute"] = "square"
    """Distance of logarithms: mean square as published, or mean absolute difference."""
    normalized: bool = True
    """Whether spectra are divided by the norm of their window, and the sum over scales by the sum of its weights."""
    weighted_logarithm: bool = False
    """Whether the logarithmic part of a scale has the weight sqrt(FFT size - 1) (AudioCraft's `alphas`, after Gritsenko
    et al., arXiv:2008.01160); otherwise it is 1, as in EnCodec."""


class StftLossConfig(Config):
    """The multi-resolution STFT loss (Parallel WaveGAN, arXiv:1910.11480, 3.2), with AudioCraft's weights."""

    ffts: tuple[int, ...] = Field(default=(1024, 2048, 512), min_length=1)
    """FFT sizes, samples."""
    hops: tuple[int, ...] = (120, 240, 50)
    """Steps between windows, samples; one for each FFT."""
    windows: tuple[int, ...] = (600, 1200, 240)
    """Lengths of the Hann windows, samples; one for each FFT."""
    convergence: float = Field(default=0.5, ge=0)
    """Weight of the spectral convergence: the error's norm over the original's (AudioCraft's `factor_sc`)."""
    magnitude: float = Field(default=0.5, ge=0)
    """Weight of the L1 of log magnitudes (AudioCraft's `factor_mag`)."""

    @model_validator(mode="after")
    def _one_of_each(self) -> "StftLossConfig":
        return _one_for_each_fft(self)


class SiSnrLossConfig(Config):
    """Negative scale-invariant signal-to-noise ratio of overlapping segments (AudioCraft's `sisnr`)."""

    segment: float = Field(default=5.0, gt=0)
    """Length of a segment, seconds; a shorter sound is one segment, padded with silence."""
    overlap: float = Field(default=0.5, ge=0, lt=1)
    """Share of a segment that the next one repeats."""


class SpectrogramDiscriminatorConfig(Config):
    """The multi-scale STFT discriminator (EnCodec, arXiv:2210.13438, 3.4), sizes as in AudioCraft's `msstftd`."""

    filters: int = Field(default=32, ge=1)
    """Channels of every convolution."""
    ffts: tuple[int, ...] = Field(default=(1024, 2048, 512, 256, 128), min_length=1)
    """FFT sizes, samples; one discriminator for each."""
    hops: tuple[int, ...] = (256, 512, 128, 64, 32)
    """Steps between windows, samples; one for each FFT."""
    windows: tuple[int, ...] = (1024, 2048, 512, 256, 128)
    """Lengths of the Hann windows, samples; one for each FFT."""
    dilations: tuple[int, ...] = (1, 2, 4)
    """Dilations of the inner convolutions, in time."""
    negative_slope: float = 0.3
    """Negative slope of the leaky rectifiers (AudioCraft's; the paper has 0.2)."""

    @model_validator(mode="after")
    def _one_of_each(self) -> "SpectrogramDiscriminatorConfig":
        return _one_for_each_fft(self)


class PeriodDiscriminatorConfig(Config):
    """The multi-period discriminator (HiFi-GAN, arXiv:2010.05646, 2.3 and appendix B)."""

    periods: tuple[int, ...] = Field(default=(2, 3, 5, 7, 11), min_length=1)
    """Samples in a row of the folded waveform; one discriminator for each."""
    filters: tuple[int, ...] = Field(default=(32, 128, 512, 1024, 1024), min_length=2)
    """Channels of the convolutions; all but the last stride along time."""
    kernel: int = Field(default=5, ge=1)
    """Width of the convolutions in time."""
    stride: int = Field(default=3, ge=1)
    """Stride of all convolutions but the last."""
    negative_slope: float = 0.1
    """Negative slope of the leaky rectifiers."""


class ScaleDiscriminatorConfig(Config):
    """The multi-scale waveform discriminator (MelGAN, arXiv:1910.06711, 2.2 and appendix A)."""

    scales: int = Field(default=3, ge=1)
    """Number of discriminators: the first sees the waveform, each further one the waveform at half the rate of the one
    before."""
    filters: int = Field(default=16, ge=4, multiple_of=4)
    """Channels of the first convolution; they grow with the strides."""
    strides: tuple[int, ...] = (4, 4, 4, 4)
    """Strides of the grouped convolutions, whose kernels are ten strides and one sample."""
    largest: int = Field(default=1024, ge=4)
    """Maximum number of channels."""
    negative_slope: float = 0.2
    """Negative slope of the leaky rectifiers."""


class AdversarialConfig(Config):
    """The discriminators, and the weights of their losses; defaults from AudioCraft's
    config/solver/compression/default.yaml, which its 32 kHz EnCodec for MusicGen uses unchanged."""

    spectrogram: SpectrogramDiscriminatorConfig | None = SpectrogramDiscriminatorConfig()
    """Discriminators of complex spectrograms; None for no such discriminators."""
    period: PeriodDiscriminatorConfig | None = None
    """Discriminators of waveforms folded at prime periods; None for no such discriminators."""
    scale: ScaleDiscriminatorConfig | None = None
    """Discriminators of waveforms at several rates; None for no such discriminators."""
    loss: Literal["hinge", "mse", "hinge2"] = "hinge"
    """Adversarial loss: `hinge` (Lim and Ye, arXiv:1705.02894), `mse`, least squares (Mao et al., arXiv:1611.04076), or
    `hinge2`, with the hinge also in the loss of the codec."""
    weight: float = Field(default=4.0, ge=0)
    """Weight of the adversarial loss of each kind of discriminator."""
    feature_weight: float = Field(default=4.0, ge=0)
    """Weight of the feature matching of each kind of discriminator."""
    update_probability: float = Field(default=1.0, gt=0, le=1)
    """Probability that a step also trains the discriminators (AudioCraft's 1 / `adversarial.every`)."""
    learning_rate: float = Field(default=3e-4, gt=0)
    """Learning rate of the discriminators; the rest of their optimisation is that of the codec."""

    @model_validator(mode="after")
    def _at_least_one_discriminator(self) -> "AdversarialConfig":
        if self.spectrogram is None and self.period is None and self.scale is None:
            raise ValueError("expected a discriminator (spectrogram, period or scale), got none")
        return self


class BalancerConfig(Config):
    """The balancer, which scales the gradients of the losses to their shares (EnCodec, arXiv:2210.13438, 3.4)."""

    total_norm: float = Field(default=1.0, gt=0)
    """2-norm of the gradient at the reconstruction if the gradients of all losses had the same direction."""
    decay: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the moving averages of the norms of the losses' gradients, a step."""
    per_item: bool = True
    """Whether the norms of the items of a batch are averaged; otherwise the norm is over the whole batch."""
    epsilon: float = Field(default=1e-12, gt=0)
    """Added to the averaged norms."""


class CodecConfig(Config):
    """The network; the defaults are those of EnCodec for music at 32 kHz (MusicGen, arXiv:2306.05284, 3.1)."""

    sample_rate: int = Field(default=32_000, ge=1_000)
    """Samples a second, Hz."""
    channels: int = Field(default=1, ge=1, le=2)
    """Channels of the audio."""
    filters: int = Field(default=64, ge=1)
    """Channels of the first convolution; they double with every ratio."""
    ratios: tuple[int, ...] = Field(default=(8, 5, 4, 4), min_length=1)
    """Strides, in the order of the decoder; their product is the hop, in samples."""
    width: int = Field(default=128, ge=1)
    """Dimensions of the latents and of the codebooks' entries."""
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
    bandwidths: tuple[int, ...] = ()
    """Other numbers of codebooks, below K, that the codec is to be used with, ascending; they become its bandwidths in
    transformers."""
    convolutional_shortcut: bool = False
    """Whether a residual block's shortcut is a convolution, as in the 24 kHz EnCodec, or the identity, as here."""

    @model_validator(mode="after")
    def _bandwidths_ascend(self) -> "CodecConfig":
        if list(self.bandwidths) != sorted({n for n in self.bandwidths if 1 <= n < self.codebooks}):
            raise ValueError(
                f"expected ascending bandwidths of 1 to {self.codebooks - 1} codebooks, got {self.bandwidths}"
            )
        return self

    @property
    def hop(self) -> int:
        """Samples a frame."""
        return math.prod(self.ratios)


class CodecTrainingConfig(Config):
    """What is minimised, and how. The defaults are AudioCraft's for the 32 kHz EnCodec of MusicGen
    (config/solver/compression/encodec_musicgen_32khz.yaml and default.yaml)."""

    optimization: OptimizationConfig = OptimizationConfig(
        steps=400_000,
        learning_rate=3e-4,
        floor=1.0,
        warmup_steps=0,
        betas=(0.5, 0.9),
        weight_decay=0.0,
        gradient_norm=None,
        ema_interval=1,
        precision="float32",
    )
    """How the weights are updated: 200 epochs of 2,000 updates, at a constant learning rate. The codebooks are averaged
    like the weights. `precision` is that of the convolutions; quantiser, spectra and losses are always float32."""
    batch_size: int = Field(default=64, ge=1)
    """Segments a step."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Segments of a micro-batch, each of which one thread of the CPU computes alone; for a small network this is faster
    than all segments on all threads. None is the whole batch. With discriminators or a balancer, which need the whole
    batch, this has no effect."""
    segment: float = Field(default=1.0, gt=0)
    """Length of a segment, seconds."""
    waveform_weight: float = Field(default=0.1, ge=0)
    """Weight of the L1 distance of waveforms. In a plain sum of losses it has to be 20 or more: with 1, a small network
    did not learn the phase in thousands of steps."""
    spectral_weight: float = Field(default=2.0, ge=0)
    """Weight of the multi-scale mel loss."""
    stft_weight: float = Field(default=0.0, ge=0)
    """Weight of the multi-resolution STFT loss."""
    si_snr_weight: float = Field(default=0.0, ge=0)
    """Weight of the scale-invariant signal-to-noise ratio."""
    commitment_weight: float = Field(default=1.0, ge=0)
    """Weight of the commitment loss, which has a gradient only in the encoder and is therefore not balanced."""
    spectral: SpectralLossConfig = SpectralLossConfig()
    """The multi-scale mel loss. As published it needs the balancer: in a plain sum of losses it outweighs the waveform
    loss, and the network learns to output silence. Logarithms alone, with equal weights, work without a balancer."""
    stft: StftLossConfig = StftLossConfig()
    """The multi-resolution STFT loss."""
    si_snr: SiSnrLossConfig = SiSnrLossConfig()
    """The scale-invariant signal-to-noise ratio."""
    adversarial: AdversarialConfig | None = AdversarialConfig()
    """The discriminators; None trains without them."""
    balancer: BalancerConfig | None = BalancerConfig()
    """How the losses' gradients are balanced, by the weights above; None minimises the plain weighted sum."""
    quantizer: QuantizerConfig = QuantizerConfig()
    """How codebooks learn."""
    quantizer_start: int = Field(default=0, ge=0)
    """Number of steps as a plain autoencoder, before the codebooks are set."""
    start_batches: int = Field(default=16, ge=1)
    """Number of batches that the codebooks are set from, and that a `transform` is computed from."""
    start: Literal["variance", "transform"] = "variance"
    """The network before its first step. `variance`: random weights, scaled so that every convolution's output has unit
    variance. `transform`: a linear transform codec on the principal components of the sound, on which minutes of
    training can build."""
    weight_norm: bool = True
    """Whether the convolutions' weights are learned as direction and length (Salimans and Kingma, arXiv:1602.07868), as
    published. Plain weights are faster for a small network. The saved network has the published form in both cases."""

    @model_validator(mode="after")
    def _something_is_minimised(self) -> "CodecTrainingConfig":
        if not self.waveform_weight + self.spectral_weight + self.stft_weight + self.si_snr_weight > 0:
            raise ValueError("expected at least one loss of the reconstruction with a weight above 0, got none")
        return self

    @property
    def part_size(self) -> int | None:
        """Segments of a micro-batch; None if the batch is not split."""
        return None if self.adversarial or self.balancer else self.micro_batch_size
