"""Bars: how many beats a bar has, which beat begins it, and whether the tracked beats are really off-beats.

A candidate bar has three or four beats and begins on any tracked beat, or halfway between two. Candidates are scored by
what most kinds of music have in common. Chords change at the beginning of a bar, and next most often in its middle;
bass and kick drum play there too. The snare plays on the second and fourth beat. Melodies and snares fall on beats
rather than between them, where chords may fall. A recording that begins with its first sound begins with a bar.

The weights are those of a conditional logit (D. McFadden, "Conditional logit analysis of qualitative choice behavior",
1974). They were fitted to the demo's pieces of seed 1, and to the same pieces cut at any place, low-passed at 3 kHz and
with added noise. docs/analysis.md gives the error on pieces of another seed.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from stages.analysis.frames import Array64
from stages.analysis.onsets import Onsets, frames_of, seconds_of
from stages.analysis.pitch import PitchClasses, mean_between

METRES = (3, 4)
"""Numbers of beats in a bar among which the detector chooses."""

LOW, HIGH = slice(0, 2), slice(5, 7)
"""Octave bands of kick and bass (40 to 160 Hz), and of the snare (1.3 to 5 kHz)."""

WEIGHTS = {
    "on beats, 40 Hz": -0.37,
    "on beats, 80 Hz": 0.24,
    "on beats, 160 Hz": 0.07,
    "on beats, 320 Hz": -0.41,
    "on beats, 640 Hz": -0.23,
    "on beats, 1.3 kHz": 0.63,
    "on beats, 2.6 kHz": 0.6,
    "on beats, 5 kHz": -0.32,
    "low at the first": 0.83,
    "low in the middle": 1.01,
    "high at second and fourth": 0.98,
    "chords change at the first": 11.65,
    "chords change in the middle": 9.35,
    "sound begins": 2.77,
    "three beats": -0.9,
}
"""Weight of a unit of each piece of evidence for a bar, nepers. Onsets are in units of their mean over the recording;
changes of chords are from 0 (the same pitch classes) to 1 (none in common)."""


@dataclass(frozen=True)
class Bar:
    """A way of counting bars."""

    beats: int
    """Beats in a bar."""
    first: int
    """Number, from 0, of the tracked beat with which, or halfway after which, the first whole bar begins."""
    halfway: bool
    """Whether the true beats are halfway between the tracked ones."""


CANDIDATES = tuple(Bar(metre, first, half) for metre in METRES for half in (False, True) for first in range(metre))


def bar_probabilities(
    onsets: Onsets, pitches: PitchClasses, beats: Float[Array64, " n"]
) -> Float[Array64, " candidates"]:
    """Return the probability of each of CANDIDATES.

    Args:
        beats: times of the tracked beats, s, at least two.
    """
    scores = bar_evidence(onsets, pitches, beats) @ np.array(list(WEIGHTS.values()))
    odds = np.exp(scores - scores.max())
    probabilities: Array64 = odds / odds.sum()
    return probabilities


def bar_evidence(
    onsets: Onsets, pitches: PitchClasses, beats: Float[Array64, " n"]
) -> Float[Array64, "candidates WEIGHTS"]:
    """Return the evidence for each of CANDIDATES, in the order of WEIGHTS."""
    halves = np.interp(np.arange(2 * len(beats) - 1) / 2, np.arange(len(beats)), beats)
    strokes, changes = _strokes(onsets, halves), _changes(pitches, halves, float(np.median(np.diff(beats))))
    begins = np.zeros(len(halves))
    if onsets.begins:
        begins[int(np.abs(halves - _first_sound(onsets)).argmin())] = 1.0
    evidence = []
    for bar in CANDIDATES:
        # Means over all bars, for each half beat of a bar.
        of_bar = (np.arange(len(halves)) - 2 * bar.first - bar.halfway) % (2 * bar.beats)
        counts = np.maximum(np.bincount(of_bar, minlength=2 * bar.beats), 1)
        stroke = np.stack([np.bincount(of_bar, octave, 2 * bar.beats) / counts for octave in strokes])
        change = np.bincount(of_bar, changes, 2 * bar.beats)[::2] / counts[::2]
        low, high = stroke[LOW, ::2].mean(0), stroke[HIGH, ::2].mean(0)
        middle = (2, [1, 3]) if bar.beats == 4 else None
        evidence.append(
            [
                *(stroke[:, ::2].mean(1) - stroke[:, 1::2].mean(1)),
                low[0] - low[1:].mean(),
                low[middle[0]] - low[middle[1]].mean() if middle else 0.0,
                high[[1, 3]].mean() - high[[0, 2]].mean() if middle else 0.0,
                change[0] - change[1:].mean(),
                change[middle[0]] - change[middle[1]].mean() if middle else 0.0,
                begins[of_bar == 0].sum(),
                float(bar.beats == 3),
            ]
        )
    return np.array(evidence)


def _strokes(onsets: Onsets, moments: Float[Array64, " n"]) -> Float[Array64, "octaves n"]:
    """Return the largest onset in each octave band within 20 ms of each of some moments, s."""
    frames = np.round(frames_of(moments)).astype(np.int64)[:, None] + np.arange(-2, 3)
    strokes: Array64 = onsets.rises[:, frames.clip(0, onsets.rises.shape[1] - 1)].max(-1)
    return strokes


def _changes(pitches: PitchClasses, moments: Float[Array64, " n"], beat: float) -> Float[Array64, " n"]:
    """Return how much the pitch classes of the beat after each moment differ from those of the beat before: 1 - cosine;
    0 if one of the two is silent."""
    before = mean_between(pitches.all, moments - beat, moments)
    after = mean_between(pitches.all, moments, moments + beat)
    sizes = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    changes: Array64 = np.where(sizes > 1e-12, 1 - (before * after).sum(1) / np.maximum(sizes, 1e-12), 0.0)
    return changes


def _first_sound(onsets: Onsets) -> float:
    """Return the time, s, of the first onset that is not weak."""
    strength = onsets.strength
    first = int((strength > 0.3 * np.percentile(strength, 98)).argmax())
    return float(seconds_of(np.array([first + 1.0]))[0])
