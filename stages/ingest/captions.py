"""Captions for tracks that have no description, made from what is known about them by one template. The title is left
out: it names a piece and does not describe it."""

from collections.abc import Mapping
from typing import Any

TEMPI = ((60.0, "very slow"), (84.0, "slow"), (112.0, "moderate"), (144.0, "fast"), (float("inf"), "very fast"))
"""Words for tempi, each with the limit below which it applies, in beats a minute."""

QUIET, LOUD = -23.0, -10.0
"""Tracks below the first are called quiet (it is the level of broadcasts by EBU R 128), above the second loud, LUFS."""

MOODS, INSTRUMENTS = 3, 4
"""How many moods and instruments a caption names at most."""


def caption_of(values: Mapping[str, Any], loudness: float | None) -> str | None:
    """Return a caption, such as `A calm jazz piece with piano and bass, slow (72 BPM), in A minor, quiet.`, or None if
    nothing is known that describes the music.

    Args:
        values: the fields of a track: `genre`, `moods`, `instrument`, `bpm`, `key`.
        loudness: LUFS, None if unknown. It adds a word to a caption, but is not enough for one.
    """
    moods, genre, bpm, key = values.get("moods") or [], values.get("genre"), values.get("bpm"), values.get("key")
    instruments = [name.strip() for name in (values.get("instrument") or "").split(",") if name.strip()]
    if not (moods or genre or instruments or bpm or key):
        return None
    about = " ".join(filter(None, (", ".join(moods[:MOODS]).lower(), (genre or "").lower(), "piece")))
    article = "An" if about[0] in "aeiou" else "A"
    parts = [f"{article} {about}" + (f" with {_listed(instruments[:INSTRUMENTS]).lower()}" if instruments else "")]
    if bpm:
        parts.append(f"{next(word for limit, word in TEMPI if bpm < limit)} ({bpm:.0f} BPM)")
    if key:
        parts.append(f"in {key}")
    if loudness is not None and not QUIET <= loudness <= LOUD:
        parts.append("quiet" if loudness < QUIET else "loud")
    return ", ".join(parts) + "."


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
