"""What was asked of a sound: of a clip by its request, of a recording by what is known of it."""

import re

from schemas.tables import Row
from stages.audio.keys import parse_key
from stages.evaluate.judging import Asked

WITHOUT_DRUMS = re.compile(
    r"\b(?:without|no|minus|sans)\s+(?:any\s+)?(?:drums?|percussion|beats?)\b|\bdrumless\b", re.I
)
"""Words that ask for no drums."""

WITH_DRUMS = re.compile(r"\bdrums?\b(?!\s+(?:and|n|&)\s+bass\b)|\bpercussion\b", re.I)
"""Words that ask for drums; the name of a genre does not."""


def asked_by_request(request: Row) -> Asked:
    """Return what a row of `requests` asks for. The beats of a clip begin with it, unless it continues a prompt."""
    bpm = request["bpm"]
    return Asked(
        key=parse_key(request["key"]) if request["key"] else None,
        bpm=bpm,
        beats=None if bpm is None or request["prompt"] else beat_grid(bpm, request["seconds"]),
        drums=asked_drums(request["description"]),
    )


def asked_drums(description: str | None) -> bool | None:
    """Return whether words ask for drums, or for none; None where they say nothing of drums."""
    if not description:
        return None
    if WITHOUT_DRUMS.search(description):
        return False
    return True if WITH_DRUMS.search(description) else None


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
    if piece is None:
        return Asked(key=parse_key(track["key"]) if track["key"] else None, bpm=track["bpm"])
    return Asked(
        key=piece["key"],
        bpm=piece["bpm"],
        beats=tuple(beat for beat in beat_grid(piece["bpm"], _played_seconds(piece)) if beat < seconds),
        drums="drums" in piece["instruments"],
    )


def _played_seconds(piece: Row) -> float:
    """Return the length of a piece's whole bars, without its ringing out, which is shorter than a bar."""
    bar = piece["beats_per_bar"] * 60 / piece["bpm"]
    return float(int(piece["seconds"] / bar + 1e-6) * bar)
