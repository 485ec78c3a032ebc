"""The key: the one of the 24 major and minor keys that fits the chords and the pitch classes best.

Profiles of pitch classes alone (C. Krumhansl, "Cognitive Foundations of Musical Pitch", 1990, chapter 4) mistake a
minor key for its relative major, which has the same tones, in three of ten of the demo's pieces. What decides between
the two is which chords occur, how long the tonic's chord lasts, and which chord comes first. The weights of these are
those of a conditional logit, fitted to the demo's pieces of seed 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from model.conditioning.config import PITCH_NAMES
from stages.analysis.chords import TEMPLATES, Chord
from stages.analysis.frames import Array64
from stages.analysis.pitch import PitchClasses

MAJOR_PROFILE = (6.6, 2.0, 3.5, 2.3, 4.6, 4.0, 2.5, 5.2, 2.4, 3.7, 2.3, 3.4)
MINOR_PROFILE = (6.5, 2.7, 3.5, 5.4, 2.6, 3.5, 2.5, 5.2, 4.0, 2.7, 4.3, 3.2)
"""Weight of each pitch class above the tonic, fitted to popular and electronic music (I. Sha'ath, "Estimation of key in
digital music recordings", Birkbeck, 2011). Of the profiles tried (also Krumhansl's, Temperley's and Albrecht's) these
find the most keys."""

SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
"""Semitones of the scale's degrees above the tonic (minor is natural minor)."""

DIATONIC, TONIC, SUBDOMINANT, FIRST, PROFILE = 3.6, 1.6, 3.2, 1.5, 2.5
"""Weights, nepers: of the share of time in chords within the key's scale, in the tonic's chord, and in a chord on the
fourth degree; of a first chord that is the tonic's; and of the correlation with the profile."""


@dataclass(frozen=True)
class Key:
    """A key and the confidence that it is the right one."""

    name: str
    """For example `A minor`, with sharps."""
    confidence: float
    """Its probability among all keys, 0 to 1."""


def find_key(pitches: PitchClasses, chords: Sequence[Chord]) -> Key | None:
    """Return the key of a recording; None if nothing in it has a pitch."""
    profile = pitches.all.mean(0) if len(pitches.all) else np.zeros(12)
    centred = profile - profile.mean()
    if float(np.linalg.norm(centred)) < 1e-12:
        return None
    sounding = [chord for chord in chords if chord.root >= 0]
    total = sum(chord.end - chord.start for chord in sounding) or 1.0
    scores = []
    for mode, weights in (("major", MAJOR_PROFILE), ("minor", MINOR_PROFILE)):
        for tonic in range(12):
            scale = {(tonic + step) % 12 for step in SCALES[mode]}
            diatonic = _seconds([chord for chord in sounding if _triad(chord) <= scale])
            tonics = _seconds([chord for chord in sounding if _is_triad_on(chord, tonic, mode)])
            subdominants = _seconds([chord for chord in sounding if chord.root == (tonic + 5) % 12])
            first = bool(sounding) and _is_triad_on(sounding[0], tonic, mode)
            scores.append(
                (DIATONIC * diatonic + TONIC * tonics + SUBDOMINANT * subdominants) / total
                + FIRST * first
                + PROFILE * _correlation(np.roll(weights, tonic), centred)
            )
    odds = np.exp(np.array(scores) - max(scores))
    best = int(odds.argmax())
    return Key(f"{PITCH_NAMES[best % 12]} {'major' if best < 12 else 'minor'}", float(odds[best] / odds.sum()))


def _seconds(chords: Sequence[Chord]) -> float:
    return sum(chord.end - chord.start for chord in chords)


def _triad(chord: Chord) -> set[int]:
    return {(chord.root + step) % 12 for step in TEMPLATES[chord.quality][:3]}


def _is_triad_on(chord: Chord, tonic: int, mode: str) -> bool:
    third = 4 if mode == "major" else 3
    return chord.root == tonic and third in TEMPLATES[chord.quality]


def _correlation(weights: Float[Array64, " 12"], centred: Float[Array64, " 12"]) -> float:
    weights = weights - weights.mean()
    return float(weights @ centred / (np.linalg.norm(weights) * np.linalg.norm(centred)))
