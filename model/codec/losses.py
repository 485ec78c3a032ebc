"""How far a reconstruction is from its original: losses to train on, their balance, and the figures to report.

The multi-scale spectral loss is EnCodec's (arXiv:2210.13438, 3.4; after Gritsenko et al., arXiv:2008.01160): at every
scale, an L1 distance of mel power spectra and a mean square of their logarithms. The multi-resolution STFT loss is that
of Parallel WaveGAN (arXiv:1910.11480, 3.2). The scale-invariant signal-to-noise ratio (SI-SNR) is from Le Roux et al.,
arXiv:1811.02508.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torchaudio
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from model.codec.config import BalancerConfig, CodecTrainingConfig, SiSnrLossConfig, SpectralLossConfig, StftLossConfig


class MelSpectrogram(nn.Module):
    """Mel power spectrogram and its logarithm, padded so that n samples give ceil(n / hop) frames."""

    window: Tensor
    filters: Tensor

    def __init__(
        self,
        sample_rate: int,
        fft: int,
        hop: int,
        mel_bands: int,
        lowest_frequency: float,
        highest_frequency: float | None,
        floor: float,
        normalized: bool = False,
    ):
        super().__init__()
        self.fft, self.hop, self.floor = fft, hop, floor
        upper = sample_rate / 2 if highest_frequency is None else highest_frequency
        with warnings.catch_warnings():
            # The smallest transforms have fewer bins than bands, so that some bands are empty, as published.
            warnings.simplefilter("ignore", UserWarning)
            filters = torchaudio.functional.melscale_fbanks(
                fft // 2 + 1, lowest_frequency, upper, mel_bands, sample_rate, norm=None, mel_scale="htk"
            )
        window = torch.hann_window(fft)
        window = window / window.square().sum().sqrt() if normalized else window
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, wav: Float[Tensor, "B C N"]) -> tuple[Float[Tensor, "_ M F"], Float[Tensor, "_ M F"]]:
        """Return the power of each mel band and frame, and its log10, both [B * C, M, F]."""
        side = (self.fft - self.hop) // 2
        padded = F.pad(wav, (side, side), mode="reflect").flatten(0, 1)
        padded = F.pad(padded, (0, (self.hop - wav.shape[-1] % self.hop) % self.hop))
        spectrum = torch.stft(padded, self.fft, self.hop, window=self.window, center=False, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        mel = torch.einsum("bft,fm->bmt", power, self.filters)
        return mel, torch.log10(self.floor + mel)


class MultiScaleSpectralLoss(nn.Module):
    """The sum over scales of the L1 distance of mel power spectra and the distance of their log10, with weights."""

    def __init__(self, sample_rate: int, config: SpectralLossConfig):
        super().__init__()
        sizes = [2**exponent for exponent in range(config.range_start, config.range_end)]
        if not sizes:
            raise ValueError(f"expected range_start < range_end, got {config.range_start} and {config.range_end}")
        self.scales = nn.ModuleList(
            MelSpectrogram(
                sample_rate,
                size,
                size // 4,
                config.mel_bands,
                config.lowest_frequency,
                config.highest_frequency,
                config.floor,
                config.normalized,
            )
            for size in sizes
        )
        self.weights = [math.sqrt(size - 1) if config.weighted_logarithm else 1.0 for size in sizes]
        self.linear_weight = config.linear_weight
        self.logarithm = F.mse_loss if config.logarithm == "square" else F.l1_loss
        self.total = sum(self.weights) + len(sizes) if config.normalized else 1.0

    def forward(self, reconstruction: Float[Tensor, "B C N"], original: Float[Tensor, "B C N"]) -> Float[Tensor, ""]:
        loss = original.new_zeros(())
        for weight, scale in zip(self.weights, self.scales, strict=True):
            fake, fake_log = scale(reconstruction)
            real, real_log = scale(original)
            loss = loss + weight * self.logarithm(fake_log, real_log)
            if self.linear_weight:
                loss = loss + self.linear_weight * F.l1_loss(fake, real)
        return loss / self.total


class MultiResolutionStftLoss(nn.Module):
    """The weighted sum of the spectral convergence and the L1 distance of log magnitudes, each a mean over
    resolutions."""

    def __init__(self, config: StftLossConfig):
        super().__init__()
        self.config = config
        for i, window in enumerate(config.windows):
            self.register_buffer(f"window_{i}", torch.hann_window(window), persistent=False)

    def forward(self, reconstruction: Float[Tensor, "B C N"], original: Float[Tensor, "B C N"]) -> Float[Tensor, ""]:
        config, tiny = self.config, torch.finfo(torch.float32).eps
        convergence, magnitude = original.new_zeros(()), original.new_zeros(())
        for i in range(len(config.ffts)):
            fake, real = self._magnitudes(reconstruction, i), self._magnitudes(original, i)
            convergence = convergence + (real - fake).norm() / (real.norm() + tiny)
            magnitude = magnitude + F.l1_loss((real + tiny).log(), (fake + tiny).log())
        return (config.convergence * convergence + config.magnitude * magnitude) / len(config.ffts)

    def _magnitudes(self, wav: Tensor, resolution: int) -> Tensor:
        fft, hop = self.config.ffts[resolution], self.config.hops[resolution]
        window = self.get_buffer(f"window_{resolution}")
        spectrum = torch.stft(wav.flatten(0, 1), fft, hop, len(window), window, return_complex=True)
        # The gradient of the square root is infinite at zero.
        return (spectrum.real.square() + spectrum.imag.square()).clamp(min=1e-7).sqrt()


class SiSnrLoss(nn.Module):
    """The negative mean SI-SNR, dB, of overlapping segments, the last of which is padded with zeros.

    It is finite for silence too: a small number, proportional to the length of a segment, is added to every energy.
    """

    def __init__(self, sample_rate: int, config: SiSnrLossConfig):
        super().__init__()
        self.segment = int(config.segment * sample_rate)
        self.step = int(self.segment * (1 - config.overlap))
        if self.step < 1:
            raise ValueError(
                f"expected si_snr segments at least 1 sample longer than their overlap, got segments of "
                f"{config.segment} s with an overlap of {config.overlap}"
            )

    def forward(self, reconstruction: Float[Tensor, "B C N"], original: Float[Tensor, "B C N"]) -> Float[Tensor, ""]:
        tiny = torch.finfo(torch.float32).eps * self.segment
        fake, real = (self._segments(wav) for wav in (reconstruction, original))
        projection = (fake * real).sum(-1, keepdim=True) / (real.square().sum(-1, keepdim=True) + tiny) * real
        signal, noise = projection.square().sum(-1), (fake - projection).square().sum(-1)
        return -10 * ((signal + tiny).log10() - (noise + tiny).log10()).mean()

    def _segments(self, wav: Tensor) -> Tensor:
        """Return the segments [B, C, segments, samples] of a waveform, each without its mean."""
        segments = math.ceil(wav.shape[-1] / self.step)
        missing = (segments - 1) * self.step + self.segment - wav.shape[-1]
        cut = F.pad(wav, (0, missing)).unfold(-1, self.segment, self.step)
        return cut - cut.mean(-1, keepdim=True)


class ReconstructionLosses(nn.Module):
    """The losses for the distance of a reconstruction to its original. Losses of weight 0 are not computed."""

    def __init__(self, sample_rate: int, config: CodecTrainingConfig):
        super().__init__()
        weights = {
            "waveform": config.waveform_weight,
            "spectral": config.spectral_weight,
            "stft": config.stft_weight,
            "si_snr": config.si_snr_weight,
        }
        self.weights = {name: weight for name, weight in weights.items() if weight > 0}
        """Weight of every loss, by its name."""
        modules: dict[str, Callable[[], nn.Module]] = {
            "waveform": nn.L1Loss,
            "spectral": lambda: MultiScaleSpectralLoss(sample_rate, config.spectral),
            "stft": lambda: MultiResolutionStftLoss(config.stft),
            "si_snr": lambda: SiSnrLoss(sample_rate, config.si_snr),
        }
        self.losses = nn.ModuleDict({name: modules[name]() for name in self.weights})
        # The sound must be longer than the reflected padding: half a window, or 3/8 of it with a hop of a quarter.
        largest = [2 ** (config.spectral.range_end - 1) * 3 // 8 + 1] if "spectral" in self.weights else []
        largest += [max(config.stft.ffts) // 2 + 1] if "stft" in self.weights else []
        self.shortest = max([1, *largest])
        """Minimum number of samples of a sound."""

    def forward(self, reconstruction: Float[Tensor, "B C N"], original: Float[Tensor, "B C N"]) -> dict[str, Tensor]:
        """Return every loss by its name, without its weight."""
        return {name: loss(reconstruction, original) for name, loss in self.losses.items()}


@dataclass(frozen=True)
class BalancedLosses:
    """The balanced losses of a step."""

    gradient: Float[Tensor, "B C N"]
    """Balanced gradient with respect to the reconstruction."""
    loss: Float[Tensor, ""]
    """Sum of the scaled losses; detached."""
    shares: dict[str, Float[Tensor, ""]]
    """Averaged gradient norm of each loss divided by the sum of all: its share of the gradient without balancing."""


def weighted_sum(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Float[Tensor, ""]:
    """Return the sum of losses, each multiplied by its weight."""
    return torch.as_tensor(sum(weights[name] * loss for name, loss in losses.items()))


class Balancer:
    """Scales the gradients of losses to their shares: the gradient balancer of EnCodec (arXiv:2210.13438, 3.4).

    In a plain sum of losses, weights mean little if the gradients differ by orders of magnitude and drift. Here the
    gradient of each loss with respect to the reconstruction is divided by a moving average of its own norm, so that a
    loss has on average the share of the gradient that its weight states. The sum is then propagated through the network
    in one backward pass.

    Args:
        weights: weights of the losses, above 0; only their ratios matter.

    Raises:
        ValueError: there are no losses, or a weight is not above 0.
    """

    def __init__(
        self, weights: Mapping[str, float], config: BalancerConfig, device: str | torch.device = "cpu"
    ) -> None:
        if not weights or min(weights.values()) <= 0:
            raise ValueError(f"expected losses with weights above 0, got {dict(weights)}")
        self.config, self.weights = config, dict(weights)
        self.sums = torch.zeros(len(weights), dtype=torch.float64, device=device)
        self.counts = torch.zeros_like(self.sums)

    def __call__(self, losses: Mapping[str, Tensor], reconstruction: Float[Tensor, "B C N"]) -> BalancedLosses:
        """Balance the losses of a step. Their autograd graphs are retained for the backward pass through the network.

        A norm that is not finite does not change its moving average, but the gradient is not finite then.

        Raises:
            ValueError: the names of the losses are not those of the weights.
        """
        if losses.keys() != self.weights.keys():
            raise ValueError(f"expected the losses {sorted(self.weights)}, got {sorted(losses)}")
        names, config = list(self.weights), self.config
        gradients = [torch.autograd.grad(losses[name], reconstruction, retain_graph=True)[0] for name in names]
        averages = self._averaged(gradients)
        scales = [
            self.weights[name] / sum(self.weights.values()) * config.total_norm / (config.epsilon + average)
            for name, average in zip(names, averages, strict=True)
        ]
        parts = [gradient * scale for gradient, scale in zip(gradients, scales, strict=True)]
        scaled = [losses[name].detach() * scale for name, scale in zip(names, scales, strict=True)]
        shares = dict(zip(names, averages / averages.sum(), strict=True))
        return BalancedLosses(torch.stack(parts).sum(0), torch.stack(scaled).sum(), shares)

    def _averaged(self, gradients: Sequence[Tensor]) -> Float[Tensor, " losses"]:
        norms = [
            (each.flatten(1).norm(dim=1).mean() if self.config.per_item else each.norm()).double() for each in gradients
        ]
        newest = torch.stack(norms)
        good = newest.isfinite()
        # Sum and count have the same decay, so that their ratio is an unbiased average from the first step on.
        self.sums = torch.where(good, self.config.decay * self.sums + newest, self.sums)
        self.counts = torch.where(good, self.config.decay * self.counts + 1, self.counts)
        return (self.sums / self.counts).to(gradients[0].dtype)

    def state(self) -> dict[str, Tensor]:
        """Return everything that the next step depends on, as named tensors on the CPU."""
        return {"sums": self.sums.cpu().clone(), "counts": self.counts.cpu().clone()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load a state that `state` returned.

        Raises:
            ValueError: the state is that of a balancer for another number of losses.
        """
        got = len(state["sums"]) if "sums" in state else 0
        if got != len(self.sums):
            raise ValueError(f"expected the averages of {len(self.sums)} losses, got {got}")
        self.sums, self.counts = (state[name].to(self.sums.device, copy=True) for name in ("sums", "counts"))


def si_snr(reconstruction: Float[Tensor, "... N"], original: Float[Tensor, "... N"]) -> Float[Tensor, "..."]:
    """Return the scale-invariant signal-to-noise ratio in dB, after removing means; higher is better.

    It is NaN where the original is silent.
    """
    fake = reconstruction - reconstruction.mean(-1, keepdim=True)
    real = original - original.mean(-1, keepdim=True)
    energy = real.square().sum(-1, keepdim=True)
    projection = (fake * real).sum(-1, keepdim=True) / energy * real
    noise = (fake - projection).square().sum(-1)
    tiny = torch.finfo(fake.dtype).tiny
    return 10 * torch.log10(projection.square().sum(-1).clamp(min=tiny) / noise.clamp(min=tiny))


def log_mel_distance(
    reconstruction: Float[Tensor, "B C N"], original: Float[Tensor, "B C N"], sample_rate: int, window: int = 1024
) -> Float[Tensor, ""]:
    """Return the mean absolute difference in dB of mel power spectra (64 bands from 64 Hz, floor at -50 dB of a power
    of 1); lower is better. Unlike SI-SNR it is not sensitive to the phase.

    Args:
        window: window of the spectra, samples; the hop is a quarter of it.
    """
    mel = MelSpectrogram(sample_rate, window, window // 4, 64, 64.0, None, 1e-5).to(original.device)
    return 10 * F.l1_loss(mel(reconstruction)[1], mel(original)[1])


def multi_scale_mel_distance(
    reconstruction: Float[Tensor, "B C N"], original: Float[Tensor, "B C N"], sample_rate: int
) -> Float[Tensor, ""]:
    """Return the mean of `log_mel_distance` over the scales of EnCodec's loss, windows of 64 to 1024 samples, in dB;
    lower is better. Short windows reveal smeared attacks, long ones wrong pitches."""
    distances = [
        log_mel_distance(reconstruction, original, sample_rate, 2**exponent)
        for exponent in range(SpectralLossConfig().range_start, SpectralLossConfig().range_end)
    ]
    return torch.stack(distances).mean()
