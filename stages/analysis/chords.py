"""Chords: the most likely series of chords for the pitch classes of every beat.

Each beat's pitch classes are compared with a template for every chord (T. Fujishima, "Realtime chord recognition of
musical sound", ICMC 1999), the bass with its root; a hidden Markov model in which a chord tends to stay until the next
beat, and rather until the next bar, finds the best series (A. Sheh and D. Ellis, ISMIR 2003).
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
"""Quality -> semitones above the root. Rarer qualities cost more right triads than they find."""

RARITY = {"dim": 0.03, "7": 0.03, "maj7": 0.03, "min7": 0.03}
"""By how much a rarer chord must be more like the tones than a triad is: a melody adds a fourth tone to many chords."""

BASS_WEIGHT = 0.3
"""How much the bass counts beside all tones together, where it is the root."""

INVERTED = 0.5
"""How much of that it counts where it is another of the chord's tones."""

SHARPNESS = 6.0
"""Nepers a unit of likeness."""

CHANGE, CHANGE_AT_BAR = 2.0, 0.3
"""Nepers that another chord costs at a beat, and at the beginning of a bar."""

LEAST_LIKENESS = 0.6
"""Of tones with the best chord's (12 equal ones have 0.5): below it there is no chord."""

INVERSION = 2.0
"""Another tone of the chord is its bass where it is so many times as strong as the root in the bass."""


@dataclass(frozen=True)
class Chord:
    """A chord, from when to when."""

    start: float
    """Seconds."""
    end: float
    """Seconds."""
    root: int
    """Pitch class, 0 for C; -1 where there is no chord."""
    quality: str
    """A key of TEMPLATES; "N" where there is no chord."""
    bass: int
    """Pitch class; -1 where there is no chord."""
    confidence: float
    """0 to 1: the likelihood of the chord against all others, the mean over its beats."""


_NAMES = [(root, quality) for quality in TEMPLATES for root in range(12)]
_BANK = np.zeros((len(_NAMES), 12))
for _number, (_root, _quality) in enumerate(_NAMES):
    _BANK[_number, [(_root + step) % 12 for step in TEMPLATES[_quality]]] = len(TEMPLATES[_quality]) ** -0.5
_RARITY = np.array([RARITY.get(quality, 0.0) for _, quality in _NAMES])
_BASS = INVERTED * (_BANK > 0)
_BASS[np.arange(len(_NAMES)), [root for root, _ in _NAMES]] = 1.0


def find_chords(pitches: PitchClasses, moments: Float[Array64, " n"], downbeats: Float[Array64, " m"]) -> list[Chord]:
    """Return the chords between moments, s, at which they may change; the last moment is the end.

    Args:
        pitches: of the recording.
        moments: beats, with the beginning and the end of the recording.
        downbeats: those of them at which chords rather change.
    """
    starts, ends = moments[:-1], moments[1:]
    tones, bass = mean_between(pitches.all, starts, ends), mean_between(pitches.bass, starts, ends)
    likeness = _unit(tones) @ _BANK.T
    evidence = likeness + BASS_WEIGHT * _unit(bass) @ _BASS.T - _RARITY
    logits = SHARPNESS * evidence
    at_bar = np.isin(starts, downbeats)
    series = _most_likely(logits, np.where(at_bar, CHANGE_AT_BAR, CHANGE))
    # Where no chord is like what sounds, there is none.
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
    """Return the best series by Viterbi's algorithm, where another chord at a moment costs that moment's change."""
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
    """Return the chord's tone that is the bass: the root, unless another one is much stronger there."""
    tones = [(root + step) % 12 for step in TEMPLATES[quality]]
    lowest = max(tones, key=lambda tone: bass[tone])
    return lowest if bass[lowest] > INVERSION * bass[root] else root
