"""A mel spectrogram in decibels, for pictures of clips, their seams and the comparison of sets of sounds.

Its triangular filters equal those of `librosa.filters.mel` to the bit; librosa is the oracle of the tests. It is not
used here because importing it takes half a second of processor time.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

RANGE_DECIBELS = 80.0
"""Decibels below the loudest point at which the spectrogram ends: lower values are raised to this floor."""

LOWEST_HERTZ = 40.0
"""Frequency at which the lowest mel band begins."""


def log_spectrogram(
    wav: Float[Tensor, "N"], sample_rate: int, bands: int, frames_a_second: float, window_seconds: float = 0.04
) -> Float[Tensor, "bands F"]:
    """Compute the mel spectrogram of a mono signal, in decibels relative to its loudest point, between -80 and 0.
    Silence is -80 throughout. The number of frames F is the duration times `frames_a_second`, rounded up.

    Raises:
        ValueError: there are no samples, the sample rate is below 8 kHz, or `bands` or `frames_a_second` is not
            positive.
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
    """Build triangular filters of height 1, equally spaced on the mel scale of O'Shaughnessy (1987). A triangle that is
    narrower than a bin takes the bin nearest to its centre."""
    hertz = _mel_frequencies(bands + 2, LOWEST_HERTZ, min(sample_rate / 2, 16_000.0))
    slopes, widths = hertz[:, None] - np.fft.rfftfreq(window, 1 / sample_rate), np.diff(hertz)[:, None]
    rising, falling = -slopes[:-2] / widths[:-1], slopes[2:] / widths[1:]
    bank = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    narrow = bank.sum(1) < 0.5
    bank[narrow, (hertz[1:-1] * window / sample_rate).round().astype(int)[narrow]] = 1.0
    return torch.from_numpy(bank)


def _mel_frequencies(count: int, lowest: float, highest: float) -> Float[npt.NDArray[np.float64], "count"]:
    """Return frequencies, Hz, that are equally spaced on the mel scale of O'Shaughnessy (1987)."""
    first, last = (2595 * np.log10(1 + hertz / 700) for hertz in (lowest, highest))
    hertz: npt.NDArray[np.float64] = 700 * (10 ** (np.linspace(first, last, count) / 2595) - 1)
    return hertz
