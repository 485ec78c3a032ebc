"""How musical a sound is, whatever was asked: whether it has a pulse, and how clear its pitches are."""

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from stages.analysis.onsets import FRAMES_A_SECOND, onset_strength
from stages.analysis.pitch import pitch_classes

SLOWEST_TEMPO, FASTEST_TEMPO = 40.0, 240.0
"""Range of tempos, beats per minute, in which a pulse is looked for."""

Wave = Float[npt.NDArray[np.float32], "N"]


def pulse_clarity(mono: Wave, sample_rate: int) -> float | None:
    """Return the highest autocorrelation of the onset strength at the lag of any tempo, 0 to 1 (O. Lartillot et al.,
    "Multi-feature modeling of pulse clarity", ISMIR 2008: the maximum of the autocorrelation). None if there are no
    onsets, or the sound is shorter than two of the slowest beats."""
    strength = onset_strength(mono, sample_rate).strength
    centred = strength - strength.mean()
    size = len(centred)
    first, last = (round(60 * FRAMES_A_SECOND / tempo) for tempo in (FASTEST_TEMPO, SLOWEST_TEMPO))
    if size <= 2 * last or not (energy := float(centred @ centred)):
        return None
    spectrum = np.fft.rfft(centred, n=2 * size)
    # Fewer frames overlap at longer lags, so each lag is divided by the number that do.
    correlation = np.fft.irfft(np.abs(spectrum) ** 2, n=2 * size)[:size] * size / np.arange(size, 0, -1) / energy
    return float(correlation[first : last + 1].max().clip(0, 1))


def pitch_strength(mono: Wave, sample_rate: int) -> float | None:
    """Return the share of the strongest pitch class in a frame, averaged over the frames in which a tone sounds: 1/12
    if none stands out, 1 for a melody alone. None if no tone sounds."""
    frames = pitch_classes(mono, sample_rate).all
    sums = frames.sum(axis=1)
    sounding = sums > 0
    if not sounding.any():
        return None
    return float((frames[sounding].max(axis=1) / sums[sounding]).mean())
