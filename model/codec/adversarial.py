"""Adversarial training of a codec: discriminators, which learn to distinguish reconstructions from originals, and the
losses by which the codec learns to fool them.

There are three kinds of discriminators: on complex spectrograms with several windows (EnCodec, arXiv:2210.13438, 3.4),
on the waveform folded at prime periods (HiFi-GAN, arXiv:2010.05646, 2.3), and on the waveform at several rates (MelGAN,
arXiv:1910.06711, 2.2). Each discriminator returns logits and its intermediate feature maps, which feature matching
compares.

Losses are hinge (Lim and Ye, arXiv:1705.02894) or least squares (Mao et al., arXiv:1611.04076), and feature matching
(Larsen et al., arXiv:1512.09300; MelGAN, 2.3). Each is a mean over the discriminators of a kind. Feature matching is
not divided by the size of the original's features: AudioCraft does not divide either, but EnCodec (3.4) does.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from model.codec.config import (
    AdversarialConfig,
    PeriodDiscriminatorConfig,
    ScaleDiscriminatorConfig,
    SpectrogramDiscriminatorConfig,
)
from model.optim.config import OptimizationConfig
from model.optim.precision import in_precision
from model.optim.train_state import TrainState

AdversarialLoss = Literal["hinge", "mse", "hinge2"]
"""Kinds of adversarial loss, with AudioCraft's names."""


@dataclass(frozen=True)
class DiscriminatorOutput:
    """The output of one discriminator for a batch."""

    logits: Float[Tensor, "B 1 *position"]
    """For every position of the sound, how likely it is to be original: high for originals."""
    features: list[Float[Tensor, "B _ ..."]]
    """Outputs of all layers before the logits, first to last."""


class SpectrogramDiscriminator(nn.Module):
    """EnCodec's discriminator: two-dimensional convolutions over a complex spectrogram, dilated in time, strided in
    frequency.

    Args:
        channels: C of the sound. The image's channels are the real parts of all channels, then the imaginary parts.
        fft, hop, window: sizes of the spectrogram, samples.
    """

    window: Tensor

    def __init__(self, channels: int, fft: int, hop: int, window: int, config: SpectrogramDiscriminatorConfig):
        super().__init__()
        self.fft, self.hop, self.slope = fft, hop, config.negative_slope
        hann = torch.hann_window(window)
        self.register_buffer("window", hann / hann.square().sum().sqrt(), persistent=False)
        width = config.filters
        # The first layer's weights are not normalised in AudioCraft either.
        first = nn.Conv2d(2 * channels, width, (3, 9), padding=(1, 4))
        inner = [
            weight_norm(nn.Conv2d(width, width, (3, 9), stride=(1, 2), dilation=(dilation, 1), padding=(dilation, 4)))
            for dilation in config.dilations
        ]
        self.layers = nn.ModuleList([first, *inner, weight_norm(nn.Conv2d(width, width, 3, padding=1))])
        self.last = weight_norm(nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, wav: Float[Tensor, "B C N"]) -> DiscriminatorOutput:
        with torch.autocast(wav.device.type, enabled=False):  # the transform is always in float32
            flat = wav.float().flatten(0, 1)
            spectrum = torch.stft(
                flat, self.fft, self.hop, len(self.window), self.window, center=False, return_complex=True
            ).unflatten(0, wav.shape[:2])
            image = torch.cat([spectrum.real, spectrum.imag], dim=1).transpose(2, 3)
        return _convolved(image, self.layers, self.last, self.slope)


class PeriodDiscriminator(nn.Module):
    """HiFi-GAN's discriminator: the waveform folded into rows of `period` samples, convolved along the columns."""

    def __init__(self, channels: int, period: int, config: PeriodDiscriminatorConfig):
        super().__init__()
        self.period, self.slope = period, config.negative_slope
        side = (config.kernel // 2, 0)
        widths, strides = (channels, *config.filters), [config.stride] * (len(config.filters) - 1) + [1]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(widths[i], widths[i + 1], (config.kernel, 1), stride=(stride, 1), padding=side))
            for i, stride in enumerate(strides)
        )
        self.last = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, wav: Float[Tensor, "B C N"]) -> DiscriminatorOutput:
        padded = F.pad(wav, (0, -wav.shape[-1] % self.period), mode="reflect")
        return _convolved(padded.unflatten(-1, (-1, self.period)), self.layers, self.last, self.slope)


class ScaleDiscriminator(nn.Module):
    """MelGAN's discriminator: strided convolutions in groups of four channels over the waveform at 1 / 2**halvings of
    its rate.

    AudioCraft computes the lower rates but does not use them, so that all of its discriminators see the same waveform.
    """

    def __init__(self, channels: int, halvings: int, config: ScaleDiscriminatorConfig):
        super().__init__()
        self.halvings, self.slope = halvings, config.negative_slope
        width = config.filters
        layers = [weight_norm(nn.Conv1d(channels, width, 15, padding=7, padding_mode="reflect"))]
        for stride in config.strides:
            wider = min(stride * width, config.largest)
            convolution = nn.Conv1d(width, wider, 10 * stride + 1, stride, padding=5 * stride, groups=width // 4)
            layers.append(weight_norm(convolution))
            width = wider
        wider = min(2 * width, config.largest)
        self.layers = nn.ModuleList([*layers, weight_norm(nn.Conv1d(width, wider, 5, padding=2))])
        self.last = weight_norm(nn.Conv1d(wider, 1, 3, padding=1))

    def forward(self, wav: Float[Tensor, "B C N"]) -> DiscriminatorOutput:
        for _ in range(self.halvings):
            wav = F.avg_pool1d(wav, 4, stride=2, padding=1, count_include_pad=False)
        return _convolved(wav, self.layers, self.last, self.slope)


class Discriminators(nn.Module):
    """All discriminators of a training, by kind (`spectrogram`, `period`, `scale`).

    Args:
        channels: C of the sound.
        seed: seed of the initial weights; the global random state is not changed.
    """

    def __init__(self, channels: int, config: AdversarialConfig, seed: int):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.kinds = nn.ModuleDict(dict(_kinds(channels, config)))
        self.shortest = max(config.spectrogram.ffts) if config.spectrogram else 1

    def forward(self, wav: Float[Tensor, "B C N"]) -> dict[str, list[DiscriminatorOutput]]:
        """Return the outputs of all discriminators, by kind.

        Raises:
            ValueError: the sound is shorter than the longest window of a spectrogram.
        """
        if wav.shape[-1] < self.shortest:
            raise ValueError(f"expected at least {self.shortest} samples, the longest window, got {wav.shape[-1]}")
        return {kind: [each(wav) for each in discriminators.children()] for kind, discriminators in self.kinds.items()}


def _kinds(channels: int, config: AdversarialConfig) -> Iterator[tuple[str, nn.ModuleList]]:
    if config.spectrogram:
        sizes = zip(config.spectrogram.ffts, config.spectrogram.hops, config.spectrogram.windows, strict=True)
        yield (
            "spectrogram",
            nn.ModuleList(SpectrogramDiscriminator(channels, *size, config.spectrogram) for size in sizes),
        )
    if config.period:
        yield (
            "period",
            nn.ModuleList(PeriodDiscriminator(channels, period, config.period) for period in config.period.periods),
        )
    if config.scale:
        yield "scale", nn.ModuleList(ScaleDiscriminator(channels, n, config.scale) for n in range(config.scale.scales))


def _convolved(signal: Tensor, layers: nn.ModuleList, last: nn.Module, slope: float) -> DiscriminatorOutput:
    features = []
    for layer in layers:
        signal = F.leaky_relu(layer(signal), slope)
        features.append(signal)
    return DiscriminatorOutput(last(signal), features)


def generator_loss(logits: Tensor, loss: AdversarialLoss) -> Float[Tensor, ""]:
    """Return the codec's loss from a discriminator's logits of reconstructions: low where the logits are high."""
    if loss == "hinge":
        return -logits.mean()
    return F.relu(1 - logits).mean() if loss == "hinge2" else (logits - 1).square().mean()


def discriminator_loss(fake: Tensor, real: Tensor, loss: AdversarialLoss) -> Float[Tensor, ""]:
    """Return a discriminator's loss: low where the logits of reconstructions are low and those of originals high."""
    if loss == "mse":
        return fake.square().mean() + (real - 1).square().mean()
    return F.relu(1 + fake).mean() + F.relu(1 - real).mean()


def feature_distance(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Return the mean over layers of the L1 distance between two lists of feature maps."""
    return _mean_loss([F.l1_loss(a.float(), b.float()) for a, b in zip(fake, real, strict=True)])


class AdversarialTraining:
    """The discriminators of a training, and how they learn.

    Args:
        channels: C of the sound.
        optimization: how the codec's weights are updated; the discriminators use it too, with the learning rate of
            `config`.
        seed: seed of the discriminators' initial weights.
    """

    def __init__(
        self,
        channels: int,
        config: AdversarialConfig,
        optimization: OptimizationConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        self.config, self.precision = config, optimization.precision
        self.discriminators = Discriminators(channels, config, seed).to(device).train()
        # The discriminators are not needed after training, so their weights are not averaged.
        changes = {"learning_rate": config.learning_rate, "ema_interval": optimization.steps + 1}
        self.train_state = TrainState(self.discriminators, optimization.model_copy(update=changes))

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each loss of `losses`, by name; losses of weight 0 are left out."""
        weights = {"adversarial": self.config.weight, "features": self.config.feature_weight}
        kinds = list(self.discriminators.kinds)
        return {f"{name}_{kind}": weight for name, weight in weights.items() for kind in kinds if weight > 0}

    def step(self, reconstruction: Float[Tensor, "B C N"], original: Float[Tensor, "B C N"]) -> Float[Tensor, ""]:
        """Train the discriminators by one step. Returns their loss before the step, the mean over kinds."""
        with in_precision(original.device, self.precision):
            fake, real = self.discriminators(reconstruction.detach()), self.discriminators(original)
        losses = []
        for kind in fake:
            pairs = [(a.logits.float(), b.logits.float()) for a, b in zip(fake[kind], real[kind], strict=True)]
            losses.append(_mean_loss([discriminator_loss(a, b, self.config.loss) for a, b in pairs]))
        loss = torch.stack(losses)
        loss.sum().backward()
        self.train_state.step_and_check()
        return loss.detach().mean()

    def losses(
        self, reconstruction: Float[Tensor, "B C N"], original: Float[Tensor, "B C N"]
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the codec's losses (`adversarial_spectrogram`, `features_spectrogram` …). The discriminators get no
        gradient from them."""
        self.discriminators.requires_grad_(False)
        try:
            with in_precision(original.device, self.precision):
                fake = self.discriminators(reconstruction)
                with torch.no_grad():
                    real = self.discriminators(original)
        finally:
            self.discriminators.requires_grad_(True)
        losses = {}
        for kind in fake:
            logits = [output.logits.float() for output in fake[kind]]
            losses[f"adversarial_{kind}"] = _mean_loss([generator_loss(each, self.config.loss) for each in logits])
            pairs = zip(fake[kind], real[kind], strict=True)
            losses[f"features_{kind}"] = _mean_loss([feature_distance(a.features, b.features) for a, b in pairs])
        return {name: losses[name] for name in self.weights}

    def state(self) -> dict[str, Tensor]:
        """Return everything that the next step depends on, as named tensors on the CPU."""
        return self.train_state.state()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load a state that `state` returned.

        Raises:
            ValueError: the state is that of other discriminators.
        """
        self.train_state.load(state)


def _mean_loss(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()
