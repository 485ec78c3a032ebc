"""A mel spectrogram in decibels: what onsets are found in and what a clip's picture shows."""

import warnings
from functools import lru_cache

import torch
from jaxtyping import Float
from librosa import mel_frequencies
from librosa.filters import mel
from torch import Tensor

RANGE_DECIBELS = 80.0
"""Nothing is told apart that lies further than this below the loudest point."""

LOWEST_HERTZ = 40.0

INAUDIBLE = 1e-4
"""Peak (-80 dBFS) under which a signal is silence: what remains there are the roundings of decoders and resamplers."""


def log_spectrogram(
    wav: Float[Tensor, "N"], sample_rate: int, bands: int, frames_a_second: float, window_seconds: float = 0.04
) -> Float[Tensor, "bands F"]:
    """Compute the mel spectrogram of a mono signal in decibels below its loudest point, between -80 and 0, all -80 for
    silence; F is the duration times `frames_a_second`, rounded up.

    Raises:
        ValueError: no samples, a sample rate below 8 kHz, or no bands or frames asked for.
    """
    if wav.numel() < 1 or sample_rate < 8_000:
        raise ValueError(f"expected samples at 8000 Hz or more, got {wav.numel()} at {sample_rate} Hz")
    if bands < 1 or frames_a_second <= 0:
        raise ValueError(f"expected at least 1 band and a positive frame rate, got {bands} and {frames_a_second}")
    window = 1 << (round(sample_rate * window_seconds) - 1).bit_length()
    count = max(1, -(-round(wav.numel() * frames_a_second) // sample_rate))
    # The frame rate need not divide the sample rate: each frame is centred on the nearest sample.
    centres = (torch.arange(count, dtype=torch.float64) * sample_rate / frames_a_second).round().long()
    padded = torch.nn.functional.pad(wav, (window // 2, window + int(centres[-1]) - min(int(centres[-1]), len(wav))))
    frames = padded[centres[:, None] + torch.arange(window)] * torch.hann_window(window).to(wav)
    power = torch.fft.rfft(frames, dim=-1).abs().square() @ _mel_bank(sample_rate, window, bands).to(wav).T
    decibels = 10 * torch.log10(power.T.clamp(min=1e-10))
    top = float(decibels.max())
    if top <= -99.0:
        return torch.full_like(decibels, -RANGE_DECIBELS)
    return (decibels - top).clamp(min=-RANGE_DECIBELS)


@lru_cache(maxsize=16)
def _mel_bank(sample_rate: int, window: int, bands: int) -> Float[Tensor, "bands bins"]:
    """Build triangles that are equally spaced on the mel scale of O'Shaughnessy (1987), each of height 1; a triangle
    that is narrower than a bin takes the bin nearest to its centre."""
    highest = min(sample_rate / 2, 16_000.0)
    with warnings.catch_warnings(action="ignore"):  # of triangles between two bins
        bank = mel(sr=sample_rate, n_fft=window, n_mels=bands, fmin=LOWEST_HERTZ, fmax=highest, htk=True, norm=None)
    centres = mel_frequencies(bands + 2, fmin=LOWEST_HERTZ, fmax=highest, htk=True)[1:-1]
    narrow = bank.sum(1) < 0.5
    bank[narrow, (centres * window / sample_rate).round().astype(int)[narrow]] = 1.0
    return torch.from_numpy(bank)
