"""Pitch classes: how strong each of the twelve is at every moment, over all octaves and in the bass.

Only the peaks of a spectrum count, after E. Gómez, "Tonal description of polyphonic audio for music content processing"
(INFORMS Journal on Computing 18(3), 2006), so noise and the flanks of drums hardly count. The frequency of a peak
is that of a parabola through it and its neighbours. The recording's deviation from A = 440 Hz is removed first.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from stages.analysis.frames import Array, Array64, magnitudes, power_of_two

FRAMES_A_SECOND = 20
"""Frames of pitch classes per second."""

WINDOW_SECONDS = 0.25
"""Window of a spectrum, s: long enough to separate semitones from 110 Hz up."""

LOWEST_PITCH, HIGHEST_PITCH = 28, 84
"""Range of MIDI pitches: from E1 (41 Hz), the lowest of a bass guitar, to C6 (1047 Hz), above which most peaks are
overtones."""

HIGHEST_BASS = 50
"""Highest MIDI pitch of a bass tone (D3, 147 Hz)."""

LEAST_MAGNITUDE = 1e-4
"""Magnitude (-74 dBFS) below which a peak is not a tone."""


@dataclass(frozen=True, eq=False)
class PitchClasses:
    """Strength of the pitch classes, C first, at frames that are 1 / `FRAMES_A_SECOND` apart, the first at 0 s."""

    all: Float[Array64, "F 12"]
    """Strength over all octaves."""
    bass: Float[Array64, "F 12"]
    """Strength in the bass, up to HIGHEST_BASS."""
    tuning: float
    """Deviation of the recording from A = 440 Hz, semitones, from -0.5 to 0.5; positive if it is higher."""


def pitch_classes(samples: Float[Array, " N"], sample_rate: int) -> PitchClasses:
    """Measure the pitch classes of a mono signal."""
    window = power_of_two(WINDOW_SECONDS, sample_rate)
    highest = 440 * 2 ** ((HIGHEST_PITCH + 1 - 69) / 12)
    spectra = magnitudes(samples, sample_rate, window, FRAMES_A_SECOND, highest)
    middle = spectra[:, 1:-1]
    is_peak = (middle > spectra[:, :-2]) & (middle >= spectra[:, 2:]) & (middle > LEAST_MAGNITUDE)
    frame, bin = np.nonzero(is_peak)
    below, at, above = (np.log(spectra[frame, bin + step].astype(np.float64) + 1e-12) for step in range(3))
    off = 0.5 * (below - above) / np.minimum(below - 2 * at + above, -1e-9)
    pitch = 69 + 12 * np.log2((bin + 1 + off.clip(-0.5, 0.5)) * sample_rate / window / 440)
    # The square root keeps the loudest instrument from drowning out the others.
    strength = np.exp(0.5 * at)
    tuning = float(np.angle((strength * np.exp(2j * np.pi * pitch)).sum()) / (2 * np.pi)) if len(pitch) else 0.0
    pitch = pitch - tuning
    note = np.round(pitch).astype(np.int64)
    strength = strength * np.cos(np.pi * (pitch - note)) ** 2

    def gather(lowest: int, highest: int) -> Float[Array64, "F 12"]:
        inside = (note >= lowest) & (note <= highest)
        places = frame[inside] * 12 + note[inside] % 12
        classes: Array64 = np.bincount(places, strength[inside], 12 * len(spectra)).astype(np.float64)
        return classes.reshape(-1, 12)

    return PitchClasses(gather(LOWEST_PITCH, HIGHEST_PITCH), gather(LOWEST_PITCH, HIGHEST_BASS), tuning)


def mean_between(
    values: Float[Array64, "F 12"], starts: Float[Array64, " n"], ends: Float[Array64, " n"]
) -> Float[Array64, "n 12"]:
    """Return the mean of the frames between pairs of moments, s; zeros for an interval without frames."""
    sums = np.concatenate([np.zeros((1, 12)), np.cumsum(values, 0)])
    first, last = (
        np.round(np.asarray(times) * FRAMES_A_SECOND).astype(np.int64).clip(0, len(values)) for times in (starts, ends)
    )
    last = np.maximum(first, last)
    means: Array64 = (sums[last] - sums[first]) / np.maximum(last - first, 1)[:, None]
    return means
