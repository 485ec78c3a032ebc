"""Tempo and beats out of onset strength (D. Ellis, "Beat tracking by dynamic programming", JNMR 36(1), 2007).

librosa's `beat_track` is the same method; it is the oracle of the tests, and not called here because its import
compiles for ten seconds and more.
"""

import numpy as np
from jaxtyping import Float

from stages.analysis.frames import Array64
from stages.analysis.onsets import FRAMES_A_SECOND

SLOWEST_TEMPO, FASTEST_TEMPO = 50.0, 210.0
"""Beats a minute between which a tempo is looked for, unless a hint lies outside."""

PREFERRED_TEMPO, SPREAD_OCTAVES = 110.0, 0.9
"""Centre (beats a minute) and width of the log-normal weight over tempos: how people tap (Ellis 2007, 3.2)."""

HINT_OCTAVES, HINT_FLOOR = 0.05, 0.2
"""Width of the weight around a tempo that was told, and how much any other tempo weighs beside it: a hint decides
between a tempo and its double, and what it says is not in the sound at all is passed over."""

LEAST_PERIODICITY = 0.03
"""Of the autocorrelation at the tempo, 1 at lag 0: below it nothing recurs."""

TIGHTNESS = 200.0
"""How much a beat that is early or late costs against its onset (librosa: 100, for music that is less regular)."""

GRID_SECONDS = 0.02
"""Root mean square distance from evenly spaced beats up to which they are taken to be evenly spaced."""


def estimate_tempo(strength: Float[Array64, " F"], bpm: float | None) -> float | None:
    """Return the tempo in beats a minute, or None where nothing recurs.

    The autocorrelation of the onset strength is summed over a lag and its multiples, and weighed by how people tap.

    Args:
        strength: onset strength, `FRAMES_A_SECOND`.
        bpm: a tempo that was told, if any.
    """
    size, centred = len(strength), strength - strength.mean()
    spectrum = np.fft.rfft(centred, n=2 * size)
    # Fewer frames overlap at longer lags, so each lag is divided by how many do.
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
    """Return the frames of the beats: of all series that are about `period` frames apart, the one with the strongest
    onsets (Ellis 2007, 3.3)."""
    size, reach = len(strength), round(period)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * 32 / period) ** 2)
    local = np.convolve(strength / max(float(strength.std()), 1e-9), kernel)[reach : reach + size]
    offsets = np.arange(-round(2 * period), -round(period / 2) + 1)
    cost = -TIGHTNESS * np.log(-offsets / period) ** 2
    # Before the recording stand beats that cost nothing, so that the first one may be anywhere.
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
    """Return the evenly spaced beats that are nearest by least squares where those given are nearly so, else those
    given, s."""
    if len(beats) < 4:
        return beats
    numbers = np.arange(len(beats))
    even = np.polyval(np.polyfit(numbers, beats, 1), numbers)
    # One onset that is early or late, such as a fill's, moves no other beat.
    near = np.abs(beats - even) < 2.5 * GRID_SECONDS
    if near.sum() >= 0.8 * len(beats):
        even = np.polyval(np.polyfit(numbers[near], beats[near], 1), numbers)
    distance = float(np.sqrt(np.mean(np.square((beats - even)[near])))) if near.any() else np.inf
    return even if near.mean() >= 0.8 and distance <= GRID_SECONDS else beats
