"""What a sound should be: a clip by its request, a recording by what is known about it."""

import re
from collections.abc import Collection, Sequence
from typing import Any

from model.conditioning.charts import DEFAULT_METER, chart_chords, parse_chart, parse_chord, parse_meter
from model.conditioning.config import CHORD_QUALITIES, NO_CHORD, NO_ROOT
from schemas.tables import Row
from stages.audio.keys import parse_key
from stages.judging.judging import Asked

WITHOUT_DRUMS = re.compile(
    r"\b(?:without|no|minus|sans)\s+(?:any\s+)?(?:drums?|percussion|beats?)\b|\bdrumless\b", re.I
)
"""Matches words that ask for a clip without drums."""

WITH_DRUMS = re.compile(r"\bdrums?\b(?!\s+(?:and|n|&)\s+bass\b)|\bpercussion\b", re.I)
"""Matches words that ask for drums, but not the name of the genre drum and bass."""


def asked_by_request(request: Row, instruments: Collection[str] = ()) -> Asked:
    """Return what a row of `requests` asks for. Beats are asked for from the start of the clip on, unless the clip
    continues a prompt.

    Args:
        instruments: names of the instruments that the detector knows; others that a request names are not judged.
    """
    bpm = request["bpm"]
    words = " , ".join(filter(None, (request["description"], dict(request["fields"] or ()).get("instrument"))))
    return Asked(
        key=parse_key(request["key"]) if request["key"] else None,
        bpm=bpm,
        beats=None if bpm is None or request["prompt"] else beat_grid(bpm, request["seconds"]),
        chords=_asked_chords(request),
        drums=asked_drums(request["description"]),
        instruments=asked_instruments(words, instruments) or None,
    )


def _asked_chords(request: Row) -> tuple[dict[str, Any], ...] | None:
    """Return the chords that a request asks for during its clip, one or more for each bar. They begin with the clip,
    including its prompt, as do those that the model is given. None if the request has no chords or no tempo."""
    if not request["chords"] or request["bpm"] is None:
        return None
    meter = parse_meter(request["meter"] or DEFAULT_METER)
    charted = chart_chords(parse_chart(request["chords"], meter), meter, request["bpm"], request["seconds"])
    chords = []
    for start, end, root, quality, bass in charted.tolist():
        name = NO_CHORD if root == NO_ROOT else CHORD_QUALITIES[int(quality)]
        chords.append(_chord(start, end, int(root), name, int(bass)))
    return tuple(_mostly_before(chords, request["seconds"])) or None


def asked_drums(description: str | None) -> bool | None:
    """Return True if words ask for drums, False if they ask for none, None if they do not mention drums."""
    if not description:
        return None
    if WITHOUT_DRUMS.search(description):
        return False
    return True if WITH_DRUMS.search(description) else None


def asked_instruments(words: str, instruments: Collection[str]) -> tuple[str, ...]:
    """Return the instruments that words ask for, in singular or plural, except those that should be left out. If one
    name is part of another, the longer one counts: a distorted guitar is not a guitar."""
    if not instruments:
        return ()
    names = "|".join(re.escape(name) for name in sorted(instruments, key=lambda name: (-len(name), name)))
    named = re.compile(
        rf"(?P<left_out>\b(?:without|no|minus|sans)\s+(?:any\s+)?)?(?<!\w)(?P<name>{names})s?(?!\w)", re.I
    )
    asked = (match["name"].lower() for match in named.finditer(words) if not match["left_out"])
    return tuple(dict.fromkeys(asked))


def beat_grid(bpm: float, seconds: float) -> tuple[float, ...]:
    """Return the times of the beats in a duration, s; the first is at 0."""
    beats = int(seconds * bpm / 60 - 1e-6) + 1
    return tuple(60 / bpm * beat for beat in range(beats))


def truth_of_track(track: Row, piece: Row | None, seconds: float) -> Asked:
    """Return what the first `seconds` of a recording are known to be: from its metadata, and for a piece of the demo
    corpus from its score, which says everything.

    Args:
        track: a row of `tracks`.
        piece: its row of `pieces`; None if it is not a piece of the demo corpus.
    """
    instruments = instrument_names(track["instrument"]) or None
    if piece is None:
        key = parse_key(track["key"]) if track["key"] else None
        return Asked(key=key, bpm=track["bpm"], instruments=instruments)
    return Asked(
        key=piece["key"],
        bpm=piece["bpm"],
        beats=tuple(beat for beat in beat_grid(piece["bpm"], _played_seconds(piece)) if beat < seconds),
        chords=tuple(_mostly_before(_piece_chords(piece), seconds)) or None,
        drums="drums" in piece["instruments"],
        instruments=instruments,
    )


def instrument_names(metadata: str | None) -> tuple[str, ...]:
    """Return the instruments that metadata names, in lower case, without drums, which have a detector of their own."""
    names = (name.strip().lower() for name in (metadata or "").split(","))
    return tuple(dict.fromkeys(name for name in names if name and not WITH_DRUMS.search(name)))


def _played_seconds(piece: Row) -> float:
    """Return the duration of a piece's whole bars, s, without its final decay, which is shorter than a bar."""
    bar = piece["beats_per_bar"] * 60 / piece["bpm"]
    return float(int(piece["seconds"] / bar + 1e-6) * bar)


def _piece_chords(piece: Row) -> list[dict[str, Any]]:
    """Return the chords of a piece in the form of `harmony`; all have the same length."""
    length = _played_seconds(piece) / len(piece["chords"])
    chords = []
    for number, name in enumerate(piece["chords"]):
        chord = parse_chord(name)
        assert chord is not None, "the demo corpus writes chords as musicians do"
        chords.append(_chord(number * length, (number + 1) * length, chord.root, chord.quality, chord.bass))
    return chords


def _chord(start: float, end: float, root: int, quality: str, bass: int) -> dict[str, Any]:
    return {"start": start, "end": end, "root": root, "quality": quality, "bass": bass, "confidence": 1.0}


def _mostly_before(chords: Sequence[dict[str, Any]], seconds: float) -> list[dict[str, Any]]:
    """Return the chords of which at least half lies in the first seconds; too little of the others can be heard."""
    return [chord for chord in chords if (chord["start"] + chord["end"]) / 2 <= seconds]
