"""Chords: the most likely sequence of chords, given the pitch classes of every beat.

Each beat's pitch classes are compared with a template for every chord (T. Fujishima, "Realtime chord recognition of
musical sound", ICMC 1999), and its bass with the chord's root. A hidden Markov model finds the best sequence
(A. Sheh and D. Ellis, ISMIR 2003); in it chords tend to last, and to change at bars rather than at other beats.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from model.conditioning.config import CHORD_INTERVALS, NO_CHORD, NO_ROOT
from stages.analysis.frames import Array64
from stages.analysis.pitch import PitchClasses, mean_between

TEMPLATES = {quality: CHORD_INTERVALS[quality] for quality in ("maj", "min", "dim", "7", "maj7", "min7")}
"""Chord quality → semitones above the root. Rarer qualities are left out: including them makes more triads wrong than
chords right."""

RARITY = {"dim": 0.03, "7": 0.03, "maj7": 0.03, "min7": 0.03}
"""Score by which a rarer chord must fit better than a triad: a melody often adds a fourth tone to a triad."""

BASS_WEIGHT = 0.3
"""Weight of the bass relative to that of all tones, if it is the chord's root."""

INVERTED = 0.5
"""Factor on the bass's weight if it is another tone of the chord."""

SHARPNESS = 6.0
"""Nepers per unit of similarity between tones and template."""

CHANGE, CHANGE_AT_BAR = 2.0, 0.3
"""Cost of a change of chord, nepers: at any beat, and at the beginning of a bar."""

LEAST_LIKENESS = 0.6
"""Lowest cosine similarity with the best chord's template that counts as a chord (12 equal tones have 0.5)."""

INVERSION = 2.0
"""How many times as strong as the root another tone must be in the bass to count as the chord's bass."""


@dataclass(frozen=True)
class Chord:
    """A chord, with its start and end."""

    start: float
    """Seconds."""
    end: float
    """Seconds."""
    root: int
    """Pitch class, 0 for C; -1 if there is no chord."""
    quality: str
    """A key of TEMPLATES; "N" if there is no chord."""
    bass: int
    """Pitch class of the bass; -1 if there is no chord."""
    confidence: float
    """Probability of the chord among all chords, 0 to 1, averaged over its beats; 0 if there is no chord."""


_NAMES = [(root, quality) for quality in TEMPLATES for root in range(12)]
_BANK = np.zeros((len(_NAMES), 12))
for _number, (_root, _quality) in enumerate(_NAMES):
    _BANK[_number, [(_root + step) % 12 for step in TEMPLATES[_quality]]] = len(TEMPLATES[_quality]) ** -0.5
_RARITY = np.array([RARITY.get(quality, 0.0) for _, quality in _NAMES])
_BASS = INVERTED * (_BANK > 0)
_BASS[np.arange(len(_NAMES)), [root for root, _ in _NAMES]] = 1.0


def find_chords(pitches: PitchClasses, moments: Float[Array64, " n"], downbeats: Float[Array64, " m"]) -> list[Chord]:
    """Return the chords of a recording. They may change at the given moments, s, the first of which is its beginning
    and the last its end.

    Args:
        moments: beats, with the beginning and the end of the recording.
        downbeats: the moments that begin a bar, at which a change costs less.
    """
    starts, ends = moments[:-1], moments[1:]
    tones, bass = mean_between(pitches.all, starts, ends), mean_between(pitches.bass, starts, ends)
    likeness = _unit(tones) @ _BANK.T
    evidence = likeness + BASS_WEIGHT * _unit(bass) @ _BASS.T - _RARITY
    logits = SHARPNESS * evidence
    at_bar = np.isin(starts, downbeats)
    series = _most_likely(logits, np.where(at_bar, CHANGE_AT_BAR, CHANGE))
    # If no chord is similar enough to the tones, there is no chord.
    chosen = np.where(likeness.max(1) < LEAST_LIKENESS, -1, series)
    odds = np.exp(logits - logits.max(1, keepdims=True))
    sure = odds / odds.sum(1, keepdims=True)
    borders = [0, *(np.flatnonzero(np.diff(chosen)) + 1).tolist(), len(chosen)]
    chords = []
    for first, last in pairwise(borders):
        start, end = float(starts[first]), float(ends[last - 1])
        number = int(chosen[first])
        if number < 0:
            chords.append(Chord(start, end, NO_ROOT, NO_CHORD, NO_ROOT, 0.0))
            continue
        root, quality = _NAMES[number]
        confidence = float(sure[first:last, number].mean())
        chords.append(Chord(start, end, root, quality, _bass_of(root, quality, bass[first:last].sum(0)), confidence))
    return chords


def _unit(values: Float[Array64, "n 12"]) -> Float[Array64, "n 12"]:
    unit: Array64 = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    return unit


def _most_likely(logits: Float[Array64, "n chords"], changes: Float[Array64, " n"]) -> npt.NDArray[np.int64]:
    """Return the best sequence of chords by Viterbi's algorithm. `changes` is the cost of a change at each moment."""
    count = len(logits)
    score, back = logits[0].copy(), np.empty(logits.shape, np.int64)
    for moment in range(1, count):
        best = int(score.argmax())
        stays = score >= score[best] - changes[moment]
        back[moment] = np.where(stays, np.arange(len(score)), best)
        score = np.where(stays, score, score[best] - changes[moment]) + logits[moment]
    series = np.empty(count, np.int64)
    series[-1] = int(score.argmax())
    for moment in range(count - 1, 0, -1):
        series[moment - 1] = back[moment, series[moment]]
    return series


def _bass_of(root: int, quality: str, bass: Float[Array64, " 12"]) -> int:
    """Return the pitch class of the chord's bass: its root, unless another of its tones is much stronger in the
    bass."""
    tones = [(root + step) % 12 for step in TEMPLATES[quality]]
    lowest = max(tones, key=lambda tone: bass[tone])
    return lowest if bass[lowest] > INVERSION * bass[root] else root
