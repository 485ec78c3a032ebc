"""Tempo: the period at which the onsets of a clip repeat.

Onset strength is the half-wave rectified rise of a mel spectrogram in decibels, summed over its bands; its
autocorrelation, weighted by how often people tap at each tempo, peaks at the beat (D. Ellis, "Beat tracking by dynamic
programming", JNMR 2007, sections 2 and 3)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from stages.audio.spectrogram import INAUDIBLE, log_spectrogram

FRAMES_A_SECOND = 100.0
"""Resolution of the onset strength."""

SLOWEST, FASTEST = 40.0, 240.0
"""Beats a minute between which a tempo is looked for."""

PREFERRED, SPREAD_OCTAVES = 120.0, 0.9
"""Centre (beats a minute) and width of the log-normal weight over tempos (Ellis 2007, section 3.2)."""

TOLERANCE = 0.04
"""Relative error within which a tempo counts as right (F. Gouyon et al., IEEE TASLP 2006, 14(5), section III-B)."""


def onset_strength(wav: Float[Tensor, "N"], sample_rate: int) -> Float[Tensor, "F"]:
    """How much a mono signal starts at each hundredth of a second, with the slow drift taken out.

    Raises:
        ValueError: no samples, or a sample rate below 8 kHz.
    """
    decibels = log_spectrogram(wav, sample_rate, bands=40, frames_a_second=FRAMES_A_SECOND)
    rise = decibels.diff(dim=1).clamp(min=0).mean(0)
    span = round(FRAMES_A_SECOND)
    drift = torch.nn.functional.avg_pool1d(rise[None], 2 * span + 1, stride=1, padding=span, count_include_pad=False)[0]
    return rise - drift


def estimate_tempo(wav: Float[Tensor, "N"], sample_rate: int) -> float | None:
    """Beats a minute, or None where the clip is shorter than three of the slowest beats or nothing in it starts.

    Each candidate is judged by its own period and by twice, three and four times that, because a beat also repeats over
    the bar; the peak is then refined by a parabola.
    """
    if len(wav) < sample_rate * 3 * 60 / SLOWEST or float(wav.abs().max()) < INAUDIBLE:
        return None
    strength = onset_strength(wav, sample_rate).double()
    size = len(strength)
    if float(strength.abs().max()) < 1e-3:
        return None
    spectrum = torch.fft.rfft(strength, n=2 * size)
    # Fewer frames overlap at longer lags, so each lag is divided by how many do.
    correlation = torch.fft.irfft(spectrum.abs().square(), n=2 * size)[:size] / torch.arange(size, 0, -1)
    correlation = correlation / correlation[0].clamp(min=1e-12)
    lags = torch.arange(60 * FRAMES_A_SECOND / FASTEST, 60 * FRAMES_A_SECOND / SLOWEST, 0.25, dtype=torch.float64)
    combed, weights = torch.zeros_like(lags), torch.zeros_like(lags)
    for multiple in (1, 2, 3, 4):
        reached = lags * multiple < 0.75 * size - 1
        combed += torch.where(reached, _at(correlation, (lags * multiple).clamp(max=size - 2)), 0.0)
        weights += reached
    tempos = 60 * FRAMES_A_SECOND / lags
    preference = torch.exp(-0.5 * (torch.log2(tempos / PREFERRED) / SPREAD_OCTAVES).square())
    score = (combed / weights).clamp(min=0) * preference
    best = int(score.argmax())
    if float(score[best]) <= 0:
        return None
    if 0 < best < len(score) - 1:
        before, here, after = (float(score[best + step]) for step in (-1, 0, 1))
        bend = before - 2 * here + after
        lag = float(lags[best]) + 0.25 * (0.5 * (before - after) / bend if bend < 0 else 0.0)
        return 60 * FRAMES_A_SECOND / lag
    return float(tempos[best])


def _at(values: Float[Tensor, "F"], places: Float[Tensor, "P"]) -> Float[Tensor, "P"]:
    """Values between the frames, linearly."""
    whole = places.floor().long()
    share = places - whole
    return values[whole] * (1 - share) + values[whole + 1] * share


def tempo_is_correct(asked: float, heard: float) -> bool:
    """Whether a tempo is right within 4 %, where half and double of what was asked count as right too: people tap the
    same music at either level."""
    octave = round(math.log2(heard / asked))
    return abs(octave) <= 1 and abs(heard / (asked * 2.0**octave) - 1) <= TOLERANCE
