"""How far a reconstruction is from its original: spectral losses to train on, and the figures to report.

The multi-scale spectral loss of EnCodec (arXiv:2210.13438, 3.4; after Gritsenko et al., arXiv:2008.01160): at every
scale an L1 distance of mel power spectra and a mean square of their logarithms. Scale-invariant signal-to-noise ratio:
Le Roux et al., arXiv:1811.02508.
"""

import math
import warnings

import torch
import torchaudio
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from model.codec.configuration import SpectralLossConfig


class MelSpectrogram(nn.Module):
    """Mel power spectrogram in base and in logarithm, padded so that n samples give ceil(n / hop) frames."""

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
            # The smallest transforms have fewer bins than there are bands: some bands are empty, as published.
            warnings.simplefilter("ignore", UserWarning)
            filters = torchaudio.functional.melscale_fbanks(
                fft // 2 + 1, lowest_frequency, upper, mel_bands, sample_rate, norm=None, mel_scale="htk"
            )
        window = torch.hann_window(fft)
        window = window / window.square().sum().sqrt() if normalized else window
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, wav: Float[Tensor, "B C N"]) -> tuple[Float[Tensor, "B M F"], Float[Tensor, "B M F"]]:
        """Power a mel band and frame, and its log10; channels are stacked along the batch."""
        side = (self.fft - self.hop) // 2
        padded = F.pad(wav, (side, side), mode="reflect").flatten(0, 1)
        padded = F.pad(padded, (0, (self.hop - wav.shape[-1] % self.hop) % self.hop))
        spectrum = torch.stft(padded, self.fft, self.hop, window=self.window, center=False, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        mel = torch.einsum("bft,fm->bmt", power, self.filters)
        return mel, torch.log10(self.floor + mel)


class MultiScaleSpectralLoss(nn.Module):
    """Sum over scales of the L1 distance of mel spectra and the weighted distance of their log10."""

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
            made, made_log = scale(reconstruction)
            true, true_log = scale(original)
            loss = loss + self.linear_weight * F.l1_loss(made, true) + weight * self.logarithm(made_log, true_log)
        return loss / self.total


def si_snr(reconstruction: Float[Tensor, "... N"], original: Float[Tensor, "... N"]) -> Float[Tensor, "..."]:
    """Scale-invariant signal-to-noise ratio in dB, means removed; higher is better.

    A silent original has no ratio: the result there is NaN.
    """
    made = reconstruction - reconstruction.mean(-1, keepdim=True)
    true = original - original.mean(-1, keepdim=True)
    energy = true.square().sum(-1, keepdim=True)
    projection = (made * true).sum(-1, keepdim=True) / energy * true
    noise = (made - projection).square().sum(-1)
    tiny = torch.finfo(made.dtype).tiny
    return 10 * torch.log10(projection.square().sum(-1).clamp(min=tiny) / noise.clamp(min=tiny))


def log_mel_distance(
    reconstruction: Float[Tensor, "B C N"], original: Float[Tensor, "B C N"], sample_rate: int
) -> Float[Tensor, ""]:
    """Mean absolute difference in dB of mel power spectra (1024-sample windows, 64 bands, floor -50 dB of full scale's
    unit power); lower is better, and unlike SI-SNR it forgives a wrong phase."""
    mel = MelSpectrogram(sample_rate, 1024, 256, 64, 64.0, None, 1e-5).to(original.device)
    return 10 * F.l1_loss(mel(reconstruction)[1], mel(original)[1])
