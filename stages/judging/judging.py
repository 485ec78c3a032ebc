"""Judging: what was asked of a sound against what was heard in it, each by the measure that the field uses.

What was asked and could not be heard is wrong, not left out: a model that makes nothing must not score.

- **Key**: right or wrong, and MIREX's score, which gives a near miss a part (audio key detection since 2005: 1 for the
  key, 0.5 a perfect fifth off, 0.3 the relative key, 0.2 the parallel one).
- **Tempo**: Accuracy 1, within 4 %; Accuracy 2 forgives factors of 2 and 3 (F. Gouyon et al., IEEE TASLP 2006, 14(5),
  section III-B).
- **Beats**: F-measure with a tolerance of 70 ms (S. Dixon, "Evaluation of the audio beat tracking system BeatRoot",
  JNMR 2007).
- **Instruments**: recall of what was asked for among the likeliest k, as many as usually play (C. Manning et al.,
  "Introduction to Information Retrieval", 2008, 8.4): more may play than a request names.
- **Chords**: share of the asked chords, one or more a bar, that sound through most of their time, told apart by root
  and major or minor (MIREX's `majmin`; M. Mauch and S. Dixon, ISMIR 2010).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.conditioning.config import CHORD_INTERVALS, NO_ROOT, PITCH_NAMES

TEMPO_TOLERANCE = 0.04
"""Relative error within which a tempo counts as right."""

TEMPO_FACTORS = (1.0, 2.0, 0.5, 3.0, 1 / 3)
"""Multiples of the asked tempo that Accuracy 2 takes for right: people tap the same music at several levels."""

BEAT_TOLERANCE = 0.07
"""Seconds between an asked beat and one that is heard for it."""

MIREX_KEY_WEIGHTS = {"fifth": 0.5, "relative": 0.3, "parallel": 0.2}
"""What an estimated key is worth that is not the asked one, by how far it is from it."""

Chord = Mapping[str, Any]
"""A chord as a row of `harmony` holds it: `start` and `end` in seconds, `root` from 0 (C) to 11, -1 for none, and
`quality`."""


@dataclass(frozen=True)
class Asked:
    """What a sound should be; None for what nobody asked."""

    key: str | None = None
    """Such as `A minor`."""
    bpm: float | None = None
    beats: tuple[float, ...] | None = None
    """Seconds."""
    chords: tuple[Chord, ...] | None = None
    """One after another, each to be judged by itself."""
    drums: bool | None = None
    instruments: tuple[str, ...] | None = None
    """Names, of those that can be told apart. Drums are not among them."""


@dataclass(frozen=True)
class Heard:
    """What detectors found in a sound; None for what they did not find."""

    key: str | None
    bpm: float | None
    beats: tuple[float, ...]
    chords: tuple[Chord, ...]
    drums: bool
    instruments: tuple[str, ...] | None = None
    """The likeliest, as many as usually play; None where nothing tells them apart."""


def judge(asked: Asked, heard: Heard) -> dict[str, Any]:
    """Return the columns of `scores` that say what was asked, what was heard and whether they agree."""
    scores: dict[str, Any] = {"key": heard.key, "bpm": heard.bpm, "drums": heard.drums}
    scores |= {"beats": list(heard.beats), "chords": list(heard.chords)}
    scores["instruments"] = None if heard.instruments is None else list(heard.instruments)
    if asked.key is not None:
        score = 0.0 if heard.key is None else key_score(asked.key, heard.key)
        scores |= {"key_asked": asked.key, "key_correct": heard.key == asked.key, "key_score": score}
    if asked.bpm is not None:
        scores |= {
            "bpm_asked": asked.bpm,
            "bpm_correct": heard.bpm is not None and tempo_is_near(asked.bpm, heard.bpm),
            "bpm_correct_octave": heard.bpm is not None
            and any(tempo_is_near(asked.bpm * factor, heard.bpm) for factor in TEMPO_FACTORS),
        }
    if asked.beats is not None:
        scores |= {"beats_asked": list(asked.beats), "beat_f_measure": beat_f_measure(asked.beats, heard.beats)}
    if asked.chords is not None:
        right = sum(chord_sounds(chord, heard.chords) for chord in asked.chords)
        scores |= {"chords_asked": list(asked.chords), "chord_accuracy": right / len(asked.chords)}
    if asked.drums is not None:
        scores |= {"drums_asked": asked.drums, "drums_correct": heard.drums == asked.drums}
    if asked.instruments and heard.instruments is not None:
        recall = len(set(heard.instruments) & set(asked.instruments)) / len(asked.instruments)
        scores |= {"instruments_asked": list(asked.instruments), "instrument_recall": recall}
    return scores


def key_score(asked: str, heard: str) -> float:
    """Return MIREX's score of a key, from 0 to 1, both written as `A minor`."""
    if asked == heard:
        return 1.0
    (asked_tonic, asked_mode), (tonic, mode) = (_tonic_and_mode(key) for key in (asked, heard))
    if mode == asked_mode:
        return MIREX_KEY_WEIGHTS["fifth"] if (tonic - asked_tonic) % 12 == 7 else 0.0
    if tonic == asked_tonic:
        return MIREX_KEY_WEIGHTS["parallel"]
    relative = (asked_tonic + 9 if asked_mode == "major" else asked_tonic + 3) % 12
    return MIREX_KEY_WEIGHTS["relative"] if tonic == relative else 0.0


def _tonic_and_mode(key: str) -> tuple[int, str]:
    tonic, _, mode = key.partition(" ")
    return PITCH_NAMES.index(tonic), mode


def tempo_is_near(asked: float, heard: float) -> bool:
    """Tell whether a tempo is within 4 % of what was asked, no octave forgiven."""
    return abs(heard / asked - 1) <= TEMPO_TOLERANCE


def beat_f_measure(asked: Sequence[float], heard: Sequence[float]) -> float:
    """Compute the F-measure of beats, each in seconds and rising: a beat is found by at most one beat within 70 ms. No
    beats at all agree with none."""
    if not asked and not heard:
        return 1.0
    matched = first = 0
    # On a line, giving each beat the earliest free one within reach matches as many as can be.
    for beat in asked:
        while first < len(heard) and heard[first] < beat - BEAT_TOLERANCE:
            first += 1
        if first < len(heard) and heard[first] <= beat + BEAT_TOLERANCE:
            matched, first = matched + 1, first + 1
    return 2 * matched / (len(asked) + len(heard))


def chord_sounds(asked: Chord, heard: Sequence[Chord]) -> bool:
    """Tell whether an asked chord, by root and major or minor, is what sounds for the most of its time."""
    seconds: dict[tuple[int, str], float] = {}
    for chord in heard:
        overlap = min(asked["end"], chord["end"]) - max(asked["start"], chord["start"])
        if overlap > 0:
            name = _root_and_third(chord)
            seconds[name] = seconds.get(name, 0.0) + overlap
    if not seconds:
        return bool(asked["root"] == NO_ROOT)
    root, third = max(seconds, key=lambda name: seconds[name])
    asked_root, asked_third = _root_and_third(asked)
    # A chord without a third, such as a suspended one, is told by its root alone.
    return root == asked_root and asked_third in ("", third)


def _root_and_third(chord: Chord) -> tuple[int, str]:
    intervals = CHORD_INTERVALS.get(chord["quality"], ())
    return int(chord["root"]), "min" if 3 in intervals else "maj" if 4 in intervals else ""
