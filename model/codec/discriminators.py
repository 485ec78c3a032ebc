"""Judges of sound: networks that learn to tell reconstructions from originals, so that a codec learns to fool them.

Three kinds, each of several judges that hear the sound in different ways: complex spectrograms of several windows
(EnCodec, arXiv:2210.13438, 3.4), the waveform folded at prime periods (HiFi-GAN, arXiv:2010.05646, 2.3), and the
waveform at several rates (MelGAN, arXiv:1910.06711, 2.2). Every judge answers with logits and with the feature maps on
the way to them, which feature matching compares.
"""

from collections.abc import Iterator
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Judgement:
    """What one judge says of a batch."""

    logits: Float[Tensor, "B 1 *place"]
    """How original every place of the sound seems."""
    features: list[Float[Tensor, "B _ ..."]]
    """Outputs of the layers before, the earliest first."""


class SpectrogramJudge(nn.Module):
    """One of EnCodec's: two-dimensional convolutions over a complex spectrogram, dilated in time, strided in
    frequency.

    Args:
        channels: C of the sound; real parts of all channels and then their imaginary parts are the image's channels.
        fft, hop, window: of the spectrogram, samples.
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

    def forward(self, wav: Float[Tensor, "B C N"]) -> Judgement:
        with torch.autocast(wav.device.type, enabled=False):  # no transform of narrow numbers
            flat = wav.float().flatten(0, 1)
            spectrum = torch.stft(
                flat, self.fft, self.hop, len(self.window), self.window, center=False, return_complex=True
            ).unflatten(0, wav.shape[:2])
            image = torch.cat([spectrum.real, spectrum.imag], dim=1).transpose(2, 3)
        return _judged(image, self.layers, self.last, self.slope)


class PeriodJudge(nn.Module):
    """One of HiFi-GAN's: the waveform folded into rows of `period` samples, convolved along the columns."""

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

    def forward(self, wav: Float[Tensor, "B C N"]) -> Judgement:
        padded = F.pad(wav, (0, -wav.shape[-1] % self.period), mode="reflect")
        return _judged(padded.unflatten(-1, (-1, self.period)), self.layers, self.last, self.slope)


class ScaleJudge(nn.Module):
    """One of MelGAN's: strided convolutions in groups of four channels over the waveform at 1 / 2**halvings of its
    rate. AudioCraft computes the lower rates and drops them, so that all its judges hear the same."""

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

    def forward(self, wav: Float[Tensor, "B C N"]) -> Judgement:
        for _ in range(self.halvings):
            wav = F.avg_pool1d(wav, 4, stride=2, padding=1, count_include_pad=False)
        return _judged(wav, self.layers, self.last, self.slope)


class Discriminators(nn.Module):
    """All judges of a training, by kind (`spectrogram`, `period`, `scale`).

    Args:
        channels: C of the sound that they judge.
        seed: of their first weights; the process's random state is left as it was.
    """

    def __init__(self, channels: int, config: AdversarialConfig, seed: int):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.kinds = nn.ModuleDict(dict(_kinds(channels, config)))
        self.shortest = max(config.spectrogram.ffts) if config.spectrogram else 1

    def forward(self, wav: Float[Tensor, "B C N"]) -> dict[str, list[Judgement]]:
        """What every judge says, by kind.

        Raises:
            ValueError: the sound is shorter than a window.
        """
        if wav.shape[-1] < self.shortest:
            raise ValueError(f"expected sound of the longest window, {self.shortest} samples, got {wav.shape[-1]}")
        return {kind: [judge(wav) for judge in judges.children()] for kind, judges in self.kinds.items()}


def _kinds(channels: int, config: AdversarialConfig) -> Iterator[tuple[str, nn.ModuleList]]:
    if config.spectrogram:
        sizes = zip(config.spectrogram.ffts, config.spectrogram.hops, config.spectrogram.windows, strict=True)
        judges = [SpectrogramJudge(channels, fft, hop, window, config.spectrogram) for fft, hop, window in sizes]
        yield "spectrogram", nn.ModuleList(judges)
    if config.period:
        yield "period", nn.ModuleList(PeriodJudge(channels, period, config.period) for period in config.period.periods)
    if config.scale:
        yield "scale", nn.ModuleList(ScaleJudge(channels, n, config.scale) for n in range(config.scale.scales))


def _judged(signal: Tensor, layers: nn.ModuleList, last: nn.Module, slope: float) -> Judgement:
    features = []
    for layer in layers:
        signal = F.leaky_relu(layer(signal), slope)
        features.append(signal)
    return Judgement(last(signal), features)
