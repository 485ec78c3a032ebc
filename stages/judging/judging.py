"""Judging: comparing what was asked of a sound with what was detected in it, by the measures that the field uses.

What was asked for but not detected counts as wrong; it is not left out, because a model that generates nothing must not
score.

- **Key**: right or wrong, and MIREX's score, which gives part of a point for a near miss (audio key detection since
  2005: 1 for the key, 0.5 a perfect fifth off, 0.3 the relative key, 0.2 the parallel one).
- **Tempo**: Accuracy 1, within 4 %; Accuracy 2 also accepts factors of 2 and 3 (F. Gouyon et al., IEEE TASLP 2006,
  14(5), section III-B).
- **Beats**: F-measure with a tolerance of 70 ms (S. Dixon, "Evaluation of the audio beat tracking system BeatRoot",
  JNMR 2007).
- **Instruments**: recall of the asked instruments among the likeliest k, where k is how many usually play (C. Manning
  et al., "Introduction to Information Retrieval", 2008, 8.4). Precision is not used, because more may play than a
  request names.
- **Chords**: share of the asked chords, one or more for each bar, that sound for most of their time. Chords are
  compared by root and by major or minor (MIREX's `majmin`; M. Mauch and S. Dixon, ISMIR 2010).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.conditioning.config import CHORD_INTERVALS, NO_ROOT, PITCH_NAMES

TEMPO_TOLERANCE = 0.04
"""Relative error within which a tempo counts as right."""

TEMPO_FACTORS = (1.0, 2.0, 0.5, 3.0, 1 / 3)
"""Multiples of the asked tempo that Accuracy 2 accepts, because people tap the same music at several levels."""

BEAT_TOLERANCE = 0.07
"""Largest difference, s, between an asked beat and a detected beat that matches it."""

MIREX_KEY_WEIGHTS = {"fifth": 0.5, "relative": 0.3, "parallel": 0.2}
"""Score of an estimated key that is not the asked one, by its relation to the asked one."""

Chord = Mapping[str, Any]
"""A chord in the form of `harmony`: `start` and `end` in seconds, `root` from 0 (C) to 11, -1 for no chord, and
`quality`."""


@dataclass(frozen=True)
class Asked:
    """What a sound should be; None for what was not asked."""

    key: str | None = None
    """Such as `A minor`."""
    bpm: float | None = None
    beats: tuple[float, ...] | None = None
    """Times, s."""
    chords: tuple[Chord, ...] | None = None
    """Chords one after another, each judged by itself."""
    drums: bool | None = None
    instruments: tuple[str, ...] | None = None
    """Names, only those that the detector knows; drums are not among them."""


@dataclass(frozen=True)
class Detected:
    """What was detected in a sound; None for what was not detected."""

    key: str | None
    bpm: float | None
    beats: tuple[float, ...]
    chords: tuple[Chord, ...]
    drums: bool
    instruments: tuple[str, ...] | None = None
    """The likeliest instruments, as many as usually play; None if they cannot be detected."""


def judge(asked: Asked, detected: Detected) -> dict[str, Any]:
    """Return the columns of `scores` for what was asked, what was detected, and whether the two agree."""
    scores: dict[str, Any] = {"key": detected.key, "bpm": detected.bpm, "drums": detected.drums}
    scores |= {"beats": list(detected.beats), "chords": list(detected.chords)}
    scores["instruments"] = None if detected.instruments is None else list(detected.instruments)
    if asked.key is not None:
        score = 0.0 if detected.key is None else key_score(asked.key, detected.key)
        scores |= {"key_asked": asked.key, "key_correct": detected.key == asked.key, "key_score": score}
    if asked.bpm is not None:
        scores |= {
            "bpm_asked": asked.bpm,
            "bpm_correct": detected.bpm is not None and tempo_is_near(asked.bpm, detected.bpm),
            "bpm_correct_octave": detected.bpm is not None
            and any(tempo_is_near(asked.bpm * factor, detected.bpm) for factor in TEMPO_FACTORS),
        }
    if asked.beats is not None:
        scores |= {"beats_asked": list(asked.beats), "beat_f_measure": beat_f_measure(asked.beats, detected.beats)}
    if asked.chords is not None:
        right = sum(chord_sounds(chord, detected.chords) for chord in asked.chords)
        scores |= {"chords_asked": list(asked.chords), "chord_accuracy": right / len(asked.chords)}
    if asked.drums is not None:
        scores |= {"drums_asked": asked.drums, "drums_correct": detected.drums == asked.drums}
    if asked.instruments and detected.instruments is not None:
        recall = len(set(detected.instruments) & set(asked.instruments)) / len(asked.instruments)
        scores |= {"instruments_asked": list(asked.instruments), "instrument_recall": recall}
    return scores


def key_score(asked: str, detected: str) -> float:
    """Return MIREX's score of a key, 0 to 1. Both keys are written like `A minor`."""
    if asked == detected:
        return 1.0
    (asked_tonic, asked_mode), (tonic, mode) = (_tonic_and_mode(key) for key in (asked, detected))
    if mode == asked_mode:
        return MIREX_KEY_WEIGHTS["fifth"] if (tonic - asked_tonic) % 12 == 7 else 0.0
    if tonic == asked_tonic:
        return MIREX_KEY_WEIGHTS["parallel"]
    relative = (asked_tonic + 9 if asked_mode == "major" else asked_tonic + 3) % 12
    return MIREX_KEY_WEIGHTS["relative"] if tonic == relative else 0.0


def _tonic_and_mode(key: str) -> tuple[int, str]:
    tonic, _, mode = key.partition(" ")
    return PITCH_NAMES.index(tonic), mode


def tempo_is_near(asked: float, detected: float) -> bool:
    """Return whether a tempo is within 4 % of the asked one, without accepting multiples of it."""
    return abs(detected / asked - 1) <= TEMPO_TOLERANCE


def beat_f_measure(asked: Sequence[float], detected: Sequence[float]) -> float:
    """Return the F-measure of beats, both in seconds, ascending. Each beat matches at most one beat within 70 ms. If
    both are empty, the result is 1."""
    if not asked and not detected:
        return 1.0
    matched = first = 0
    # Matching each asked beat with the earliest free beat within reach gives the largest possible number of matches.
    for beat in asked:
        while first < len(detected) and detected[first] < beat - BEAT_TOLERANCE:
            first += 1
        if first < len(detected) and detected[first] <= beat + BEAT_TOLERANCE:
            matched, first = matched + 1, first + 1
    return 2 * matched / (len(asked) + len(detected))


def chord_sounds(asked: Chord, detected: Sequence[Chord]) -> bool:
    """Return whether an asked chord, by root and major or minor, is the chord that sounds for most of its time."""
    seconds: dict[tuple[int, str], float] = {}
    for chord in detected:
        overlap = min(asked["end"], chord["end"]) - max(asked["start"], chord["start"])
        if overlap > 0:
            name = _root_and_third(chord)
            seconds[name] = seconds.get(name, 0.0) + overlap
    if not seconds:
        return bool(asked["root"] == NO_ROOT)
    root, third = max(seconds, key=lambda name: seconds[name])
    asked_root, asked_third = _root_and_third(asked)
    # A chord without a third, such as a suspended one, is compared by its root only.
    return root == asked_root and asked_third in ("", third)


def _root_and_third(chord: Chord) -> tuple[int, str]:
    intervals = CHORD_INTERVALS.get(chord["quality"], ())
    return int(chord["root"]), "min" if 3 in intervals else "maj" if 4 in intervals else ""
