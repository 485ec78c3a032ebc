"""Judging a try: each limit that it does not keep gives a sentence with what was expected and what was measured."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from model.conditioning.config import ChromaConfig
from schemas.tables import Row
from stages.audio import Samples, to_mono
from stages.gate.config import Limits
from stages.gate.measuring import Measures
from stages.judging.asking import asked_by_request
from stages.judging.judging import Asked, Detected, judge
from stages.judging.listening import listen
from stages.judging.melody import Melody

SHORTEST_SILENCE = 0.5
"""Seconds of silence that are allowed at either end however short a clip is: a note needs time to begin and to
decay."""

SHORTEST_LOUDNESS = 0.4
"""Shortest sound, s, that has a loudness (ITU-R BS.1770)."""


@dataclass(frozen=True)
class _Limit:
    """The upper limit of one measure."""

    name: str
    words: str
    """Words for a value of the measure, with `{}` in its place."""
    limit: Callable[[Limits], float | None]


_SIMPLE = (
    _Limit("zeros", "{:.0%} of the samples digital silence", lambda limits: limits.zeros),
    _Limit("clipping_runs", "{:.2%} of the samples in flat tops", lambda limits: limits.clipping),
    _Limit("true_peak", "a true peak of {:.1f} dBTP", lambda limits: limits.true_peak),
    _Limit("dc", "a constant part of {:.3f} of full scale", lambda limits: limits.dc),
    _Limit(
        "end_noise", "a spectral flatness of the last second {:.2f} above the rest", lambda limits: limits.end_noise
    ),
    _Limit("seam", "a change between windows of {:.1f} times the largest elsewhere", lambda limits: limits.seam),
    _Limit("held_seconds", "{:.3g} s in which no code changes", lambda limits: limits.held),
    _Limit("looped_seconds", "{:.3g} s of codes that repeat in a loop", lambda limits: limits.looped),
)


def reasons_against(measures: Measures, limits: Limits, seconds_asked: float) -> list[str]:
    """Return the reasons against a try: for each limit that it does not keep, a sentence that begins with the measure's
    name."""
    reasons = [*_length(measures, limits, seconds_asked), *_silence(measures, limits)]
    for simple in _SIMPLE:
        limit, value = simple.limit(limits), getattr(measures, simple.name)
        if limit is not None and value is not None and value > limit:
            expected, got = simple.words.format(limit), simple.words.format(value)
            reasons.append(f"{simple.name}: expected at most {expected}, got {got}")
    return reasons


def _length(measures: Measures, limits: Limits, asked: float) -> Iterator[str]:
    if limits.seconds is not None and abs(measures.seconds - asked) > limits.seconds:
        yield f"seconds: expected {asked:g} s, got {measures.seconds:.3f}"


def _silence(measures: Measures, limits: Limits) -> Iterator[str]:
    """Yield the reasons if an end, or the whole, is silent. If the whole is silent, its ends are not mentioned."""
    length, loudness = measures.seconds, measures.loudness
    if limits.loudness is not None and length >= SHORTEST_LOUDNESS and (loudness or -np.inf) < limits.loudness:
        got = "no sound above -70" if loudness is None else f"{loudness:.1f}"
        yield f"loudness: expected at least {limits.loudness:g} LUFS before normalisation, got {got}"
    if measures.head_silence >= length and loudness is None:
        return
    for name, limit in (("head_silence", limits.head_silence), ("tail_silence", limits.tail_silence)):
        allowed = np.inf if limit is None else limit
        if limits.silent_share is not None:
            allowed = min(allowed, max(SHORTEST_SILENCE, limits.silent_share * length))
        value = getattr(measures, name)
        if value > allowed:
            where = "beginning" if name == "head_silence" else "end"
            yield f"{name}: expected at most {allowed:.2g} s of silence at the {where}, got {value:.2f}"


@dataclass(frozen=True)
class RequestFidelity:
    """How well a try follows its request, for conditions that have a limit; the names are those of `tries`."""

    key: str | None = None
    key_score: float | None = None
    bpm: float | None = None
    chord_accuracy: float | None = None
    chroma_similarity: float | None = None


def follow_request(
    sound: Samples, sample_rate: int, request: Row, melody: Melody | None, analysis: ChromaConfig | None, limits: Limits
) -> tuple[RequestFidelity, list[str]]:
    """Judge a try by those of its request's conditions that have a limit. Return what was detected, and the reasons
    against the try. Detectors run only for conditions with a limit.

    Args:
        melody: the melody to follow; None if there is none.
        analysis: settings by which the model's melodies are measured; None not to judge the melody.
    """
    asked = asked_by_request(request)
    wanted = Asked(
        key=asked.key if limits.key_score is not None else None,
        bpm=asked.bpm if limits.tempo is not None else None,
        chords=asked.chords if limits.chord_accuracy is not None else None,
    )
    scores: Row = {}
    reasons: list[str] = []
    if wanted != Asked():
        detected = listen(to_mono(sound)[0], sample_rate)
        scores = judge(wanted, detected)
        reasons += _missed_conditions(wanted, detected, scores, limits)
    if limits.chroma_similarity is not None and melody is not None and analysis is not None:
        scores |= melody.scores(sound, sample_rate, analysis)
        if scores["chroma_similarity"] < limits.chroma_similarity:
            least = f"{limits.chroma_similarity:.0%} of the melody's frames"
            reasons.append(f"chroma_similarity: expected at least {least}, got {scores['chroma_similarity']:.0%}")
    names = ("key", "key_score", "bpm", "chord_accuracy", "chroma_similarity")
    return RequestFidelity(**{name: scores.get(name) for name in names}), reasons


def _missed_conditions(wanted: Asked, detected: Detected, scores: Row, limits: Limits) -> Iterator[str]:
    """Yield the reasons if a key, tempo or chords were asked for and not detected well enough."""
    if wanted.key is not None and limits.key_score is not None and scores["key_score"] < limits.key_score:
        yield f"key_score: expected {wanted.key}, got {detected.key or 'no key'} ({scores['key_score']:g})"
    if wanted.bpm is not None:
        right = scores["bpm_correct" if limits.tempo == "exact" else "bpm_correct_octave"]
        if not right:
            got = "no pulse" if detected.bpm is None else f"{detected.bpm:.1f}"
            yield f"tempo: expected {wanted.bpm:g} beats a minute, got {got}"
    if wanted.chords and limits.chord_accuracy is not None and scores["chord_accuracy"] < limits.chord_accuracy:
        got = f"{scores['chord_accuracy']:.0%}"
        yield f"chord_accuracy: expected at least {limits.chord_accuracy:.0%} of the chords to sound, got {got}"
