"""Tempo and beats from onset strength (D. Ellis, "Beat tracking by dynamic programming", JNMR 36(1), 2007).

librosa's `beat_track` is the same method and the oracle of the tests. It is not used here because importing it compiles
code for ten seconds or more.
"""

import numpy as np
from jaxtyping import Float

from stages.analysis.frames import Array64
from stages.analysis.onsets import FRAMES_A_SECOND

SLOWEST_TEMPO, FASTEST_TEMPO = 50.0, 210.0
"""Range of tempos that are considered, beats per minute; it is extended if a hint is outside it."""

PREFERRED_TEMPO, SPREAD_OCTAVES = 110.0, 0.9
"""Centre (beats per minute) and width (octaves) of the log-normal weight over tempos, which models how people tap
(Ellis 2007, 3.2)."""

HINT_OCTAVES, HINT_FLOOR = 0.05, 0.2
"""Width (octaves) of the weight around a tempo given as a hint, and the weight of all other tempos relative to it. So a
hint decides between a tempo and its double, but a hint that does not fit the sound at all is ignored."""

LEAST_PERIODICITY = 0.03
"""Lowest periodicity, relative to the autocorrelation at lag 0, that counts as a tempo."""

TIGHTNESS = 200.0
"""Cost of a beat that is early or late, relative to its onset strength (librosa: 100, for music that is less
regular)."""

GRID_SECONDS = 0.02
"""Largest root mean square distance, s, of beats from evenly spaced ones at which they are replaced by those."""


def estimate_tempo(strength: Float[Array64, " F"], bpm: float | None) -> float | None:
    """Return the tempo in beats per minute; None if the onsets are not periodic.

    For each lag, the autocorrelation of the onset strength is averaged over the lag and its multiples, and weighted by
    how people tap.

    Args:
        strength: onset strength, `FRAMES_A_SECOND` values per second.
        bpm: a hint of the tempo; None for no hint.
    """
    size, centred = len(strength), strength - strength.mean()
    spectrum = np.fft.rfft(centred, n=2 * size)
    # Fewer frames overlap at longer lags, so each lag is divided by the number that do.
    correlation = np.fft.irfft(np.abs(spectrum) ** 2, n=2 * size)[:size] / np.arange(size, 0, -1)
    if correlation[0] < 1e-9:
        return None
    slowest, fastest = min(SLOWEST_TEMPO, 0.9 * (bpm or np.inf)), max(FASTEST_TEMPO, 1.1 * (bpm or 0.0))
    lags = np.arange(60 * FRAMES_A_SECOND / fastest, 60 * FRAMES_A_SECOND / slowest, 0.25)
    lags = lags[lags < 0.75 * size - 1]
    if not lags.size:
        return None
    multiples = lags * np.arange(1, 5)[:, None]
    reached = multiples < 0.75 * size - 1
    combed = (np.interp(multiples, np.arange(size), correlation / correlation[0]) * reached).sum(0) / reached.sum(0)
    tempos = 60 * FRAMES_A_SECOND / lags
    weight = np.exp(-0.5 * (np.log2(tempos / PREFERRED_TEMPO) / SPREAD_OCTAVES) ** 2)
    if bpm:
        weight = HINT_FLOOR * weight + np.exp(-0.5 * (np.log2(tempos / bpm) / HINT_OCTAVES) ** 2)
    best = int((combed.clip(min=0) * weight).argmax())
    return float(tempos[best]) if combed[best] >= LEAST_PERIODICITY else None


def track_beats(strength: Float[Array64, " F"], period: float) -> Float[Array64, " n"]:
    """Return the frames of the beats: of all series of frames that are about `period` apart, the one with the strongest
    onsets (Ellis 2007, 3.3)."""
    size, reach = len(strength), round(period)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * 32 / period) ** 2)
    local = np.convolve(strength / max(float(strength.std()), 1e-9), kernel)[reach : reach + size]
    offsets = np.arange(-round(2 * period), -round(period / 2) + 1)
    cost = -TIGHTNESS * np.log(-offsets / period) ** 2
    # Free beats are assumed before the recording, so that the first real beat may be anywhere.
    before = -int(offsets[0])
    score = np.zeros(before + size)
    back = np.empty(size, np.int64)
    for frame in range(size):
        reached = score[frame : frame + len(offsets)] + cost
        best = int(reached.argmax())
        score[before + frame] = local[frame] + reached[best]
        back[frame] = frame + offsets[best]
    last = max(size - reach, 0) + int(score[before + max(size - reach, 0) :].argmax())
    beats = [last]
    while back[beats[-1]] >= 0:
        beats.append(int(back[beats[-1]]))
    return np.array(beats[::-1], np.float64)


def even_beats(beats: Float[Array64, " n"]) -> Float[Array64, " n"]:
    """Return the evenly spaced beats, s, that fit the given ones best by least squares; if the given beats are not
    nearly even, return them unchanged."""
    if len(beats) < 4:
        return beats
    numbers = np.arange(len(beats))
    even = np.polyval(np.polyfit(numbers, beats, 1), numbers)
    # A single early or late onset, as in a fill, does not change the fit.
    near = np.abs(beats - even) < 2.5 * GRID_SECONDS
    if near.sum() >= 0.8 * len(beats):
        even = np.polyval(np.polyfit(numbers[near], beats[near], 1), numbers)
    distance = float(np.sqrt(np.mean(np.square((beats - even)[near])))) if near.any() else np.inf
    return even if near.mean() >= 0.8 and distance <= GRID_SECONDS else beats
