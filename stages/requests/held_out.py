"""Requests made from the store's held-out tracks, so that clips can be compared with music that a model never heard.

Each request asks for what its track is: its description, key, tempo, metre, chords and melody. The melody is left out
if the track's first bar begins late, because the bars of a clip begin at once.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from model.conditioning.charts import Chart, Chord, TimedChord
from schemas.identity import by_hash
from schemas.tables import HARMONY, RHYTHM, TRACKS, Row
from stages.audio.references import rows_of_tracks
from stages.pipeline.contract import Context
from stages.requests.lines import RequestLine

PREFIX = "held-out"
"""The prefix of the names of these requests; the first digits of the track's id follow."""

DIGITS = 12

ON_TIME = 0.1
"""How late the first downbeat of a track may be, in seconds, if its melody is asked for as well as its bars."""


def held_out_lines(context: Context, count: int, seconds: float, before: Sequence[str]) -> list[RequestLine]:
    """Return requests for up to `count` held-out tracks that are at least as long as a clip.

    Args:
        seconds: length of a clip.
        before: names of the requests of earlier runs. The tracks of these requests stay, so that new recordings do not
            change the set once it is full; other tracks are taken in the order of the hash of their ids.
    """
    if not count or TRACKS.name not in context.versions:
        return []
    rows = context.rows(TRACKS, ["track_id", "split", "seconds", "description", "key", "bpm"])
    held_out = [row for row in rows.to_pylist() if row["split"] != "train" and row["seconds"] >= seconds]
    known = frozenset(before)
    chosen = sorted(held_out, key=lambda row: (_name(row) not in known, by_hash(row["track_id"])))[:count]
    ids = {row["track_id"] for row in chosen}
    rhythms, harmonies = (
        rows_of_tracks(context.store, context.versions, table, ids) if table.name in context.versions else {}
        for table in (RHYTHM, HARMONY)
    )
    return [
        _line(row, rhythms.get(row["track_id"]), harmonies.get(row["track_id"]), seconds)
        for row in sorted(chosen, key=_name)
    ]


def _name(track: Row) -> str:
    return f"{PREFIX} {track['track_id'][:DIGITS]}"


def _line(track: Row, rhythm: Row | None, harmony: Row | None, seconds: float) -> RequestLine:
    asked: dict[str, Any] = {"name": _name(track), "description": track["description"], "key": track["key"]}
    asked |= {"bpm": track["bpm"], "seconds": seconds}
    if rhythm is None or not rhythm["downbeats"] or rhythm["beats_per_bar"] is None:
        return RequestLine.model_validate(asked | {"melody": f"track:{track['track_id']}"})
    beats, first = rhythm["beats_per_bar"], rhythm["downbeats"][0]
    asked |= {"bpm": round(rhythm["bpm"], 2), "meter": f"{beats}/4"}
    if harmony is not None and harmony["chords"]:
        bar = 60 * beats / rhythm["bpm"]
        # Chords change at the beginning of a bar, or also in its middle if the number of beats is even.
        asked["chords"] = str(_chart(harmony["chords"], first, bar, 1 if beats % 2 else 2, seconds))
    if first <= ON_TIME:
        asked["melody"] = f"track:{track['track_id']}"
    return RequestLine.model_validate(asked)


def _chart(chords: Sequence[Mapping[str, Any]], first: float, bar: float, parts: int, seconds: float) -> Chart:
    """Return the chart of a clip's bars, from the second `first` of a track: in each part of a bar, the chord that
    sounds longest."""
    bars = []
    for start in (first + number * bar for number in range(math.ceil(seconds / bar))):
        edges = [start + number * bar / parts for number in range(parts + 1)]
        sounding = [_longest(chords, begin, end) for begin, end in pairwise(edges)]
        bars.append(tuple(TimedChord(chord) for chord in (sounding[:1] if len(set(sounding)) == 1 else sounding)))
    return Chart(tuple(bars))


def _longest(chords: Sequence[Mapping[str, Any]], begin: float, end: float) -> Chord:
    longest = max(chords, key=lambda chord: min(chord["end"], end) - max(chord["start"], begin))
    return Chord(longest["root"], longest["quality"], longest["bass"])
