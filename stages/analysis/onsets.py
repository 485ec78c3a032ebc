"""Onset strength: how much begins to sound at every moment, octave by octave.

Spectral flux after S. Böck and G. Widmer, "Maximum filter vibrato suppression for onset detection" (DAFx 2013):
magnitudes in bands of a sixth of an octave, compressed by the logarithm; a rise counts only beyond the loudest of the
neighbouring bands a moment before, so that a vibrato is no series of onsets.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from stages.analysis.frames import Array, Array64, magnitudes, power_of_two

FRAMES_A_SECOND = 100
"""Resolution of the onset strength."""

WINDOW_SECONDS = 0.064
"""Long enough to tell two neighbouring bass notes apart, short enough for sixteenth notes."""

LOWEST_HERTZ, OCTAVES, BANDS_AN_OCTAVE = 40.0, 8, 6
"""From below the lowest kick to 10 kHz, as far as the sample rate goes."""

COMPRESSION = 1000.0
"""Magnitudes are taken as log(1 + 1000 x): what is 60 dB below full scale still counts."""

EARLY_SECONDS = 0.015
"""The flux is largest so long before an onset, when a window begins to hear it (the median over the demo's pieces)."""

LEAD_SECONDS = 0.1
"""Put before the recording, so that what it begins with is an onset like others."""


@dataclass(frozen=True, eq=False)
class Onsets:
    """What begins to sound, and when."""

    rises: Float[Array, "octaves F"]
    """The rise of each octave at every frame, in units of the mean of their sum."""
    level: Float[Array, " F"]
    """How loud it is: the sum of all magnitudes."""
    begins: bool
    """Whether the recording begins with an onset, rather than in the middle of a sound."""

    @property
    def strength(self) -> Float[Array64, " F"]:
        """The onset strength over all octaves."""
        strength: Array64 = self.rises.sum(0, dtype=np.float64)
        return strength


def seconds_of(frames: Float[Array64, " n"]) -> Float[Array64, " n"]:
    """Return the times in the recording, s, of onsets at frames, which need not be whole."""
    return np.asarray(frames) / FRAMES_A_SECOND + EARLY_SECONDS - LEAD_SECONDS


def frames_of(seconds: Float[Array64, " n"]) -> Float[Array64, " n"]:
    """Return the frames of onsets at times of the recording: `seconds_of` backwards."""
    return (np.asarray(seconds) - EARLY_SECONDS + LEAD_SECONDS) * FRAMES_A_SECOND


def onset_strength(samples: Float[Array, " N"], sample_rate: int) -> Onsets:
    """Measure what begins to sound in a mono signal."""
    begins, lead = _begins(samples, sample_rate), round(LEAD_SECONDS * sample_rate)
    # A recording that was cut out of another begins with no onset: what lies before is made up from what follows.
    before = np.zeros(lead, np.float32) if begins else np.pad(samples[lead:0:-1], (max(lead + 1 - len(samples), 0), 0))
    window = power_of_two(WINDOW_SECONDS, sample_rate)
    highest = LOWEST_HERTZ * 2**OCTAVES
    spectra = magnitudes(np.concatenate([before, samples]), sample_rate, window, FRAMES_A_SECOND, highest)
    edges = LOWEST_HERTZ * 2 ** (np.arange(OCTAVES * BANDS_AN_OCTAVE) / BANDS_AN_OCTAVE)
    firsts = np.unique(np.ceil(edges * window / sample_rate).astype(np.int64))
    firsts = firsts[firsts < spectra.shape[1]]
    octave = np.log2(firsts * sample_rate / window / LOWEST_HERTZ + 1e-9).astype(np.int64).clip(0, OCTAVES - 1)
    loud = np.log1p(COMPRESSION * np.add.reduceat(spectra, firsts, axis=1))
    before_it = loud.copy()
    before_it[:, 1:] = np.maximum(before_it[:, 1:], loud[:, :-1])
    before_it[:, :-1] = np.maximum(before_it[:, :-1], loud[:, 1:])
    rise = np.zeros_like(loud)
    rise[1:-1] = np.maximum(loud[2:] - before_it[:-2], 0)
    rises = np.zeros((OCTAVES, len(loud)), np.float32)
    for number in range(octave[-1] + 1):
        rises[number] = rise[:, octave == number].mean(1)
    return Onsets(rises / max(float(rises.sum(0).mean()), 1e-9), spectra.sum(1), begins)


def _begins(samples: Float[Array, " N"], sample_rate: int) -> bool:
    """Tell whether a signal begins with an onset: it comes out of silence, or what is bright in it dies away at once.
    Of the demo's pieces 77 % do, and 9 % of the same cut anywhere."""

    def root_mean_square(signal: Float[Array, " n"], start: float, end: float) -> float:
        part = signal[round(start * sample_rate) : max(round(end * sample_rate), 1)]
        return float(np.sqrt(np.square(part, dtype=np.float64).mean())) + 1e-9 if part.size else 1e-9

    bright = np.diff(samples)
    out_of_silence = root_mean_square(samples, 0, 0.0005) < 0.25 * root_mean_square(samples, 0.005, 0.06)
    return out_of_silence or root_mean_square(bright, 0, 0.01) > 2 * root_mean_square(bright, 0.03, 0.08)
