"""What was asked of a sound: of a clip by its request, of a recording by what is known of it."""

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
"""Words that ask for no drums."""

WITH_DRUMS = re.compile(r"\bdrums?\b(?!\s+(?:and|n|&)\s+bass\b)|\bpercussion\b", re.I)
"""Words that ask for drums; the name of a genre does not."""


def asked_by_request(request: Row, instruments: Collection[str] = ()) -> Asked:
    """Return what a row of `requests` asks for. The beats of a clip begin with it, unless it continues a prompt.

    Args:
        instruments: those that can be told from each other; others that a request names are not judged.
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
    """Return the chords of a request over its clip, each bar's by themselves. They begin with the clip, a prompt
    included, as those that the model is told do."""
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
    """Return whether words ask for drums, or for none; None where they say nothing of drums."""
    if not description:
        return None
    if WITHOUT_DRUMS.search(description):
        return False
    return True if WITH_DRUMS.search(description) else None


def asked_instruments(words: str, instruments: Collection[str]) -> tuple[str, ...]:
    """Return the instruments that words ask for, in singular or plural, without those that they ask to be left out. Of
    names within each other the longer one is meant: a distorted guitar is no guitar."""
    if not instruments:
        return ()
    names = "|".join(re.escape(name) for name in sorted(instruments, key=lambda name: (-len(name), name)))
    named = re.compile(
        rf"(?P<left_out>\b(?:without|no|minus|sans)\s+(?:any\s+)?)?(?<!\w)(?P<name>{names})s?(?!\w)", re.I
    )
    asked = (match["name"].lower() for match in named.finditer(words) if not match["left_out"])
    return tuple(dict.fromkeys(asked))


def beat_grid(bpm: float, seconds: float) -> tuple[float, ...]:
    """Return the times of the beats of so many seconds, the first at their beginning."""
    beats = int(seconds * bpm / 60 - 1e-6) + 1
    return tuple(60 / bpm * beat for beat in range(beats))


def truth_of_track(track: Row, piece: Row | None, seconds: float) -> Asked:
    """Return what the first seconds of a recording are known to be: by its metadata, and all of it by its score where
    it is a piece of the demo corpus.

    Args:
        track: a row of `tracks`.
        piece: its row of `pieces`.
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
    """Return the instruments that metadata names, in lower case, without drums: those are told by their sound."""
    names = (name.strip().lower() for name in (metadata or "").split(","))
    return tuple(dict.fromkeys(name for name in names if name and not WITH_DRUMS.search(name)))


def _played_seconds(piece: Row) -> float:
    """Return the length of a piece's whole bars, without its ringing out, which is shorter than a bar."""
    bar = piece["beats_per_bar"] * 60 / piece["bpm"]
    return float(int(piece["seconds"] / bar + 1e-6) * bar)


def _piece_chords(piece: Row) -> list[dict[str, Any]]:
    """Return the chords of a piece as rows of `harmony`: they are all of one length."""
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
    """Return the chords of which at least half lies in the first seconds: there is too little to hear of others."""
    return [chord for chord in chords if (chord["start"] + chord["end"]) / 2 <= seconds]
