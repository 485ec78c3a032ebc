"""Beats and chords of a clip, as asked and as heard: shapes that are drawn over and below its spectrogram."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.conditioning.charts import Chord
from model.conditioning.config import NO_ROOT
from schemas.tables import Row

WIDTH, LANE = 320, 20
"""Width of a drawing, and height of a lane of chords, in SVG units."""

LETTER = 6.5
"""Width of a letter in SVG units. A chord's name that does not fit into its box is left out."""


@dataclass(frozen=True)
class Box:
    """A chord in a lane."""

    x: float
    width: float
    text: str
    """The name as it is drawn; empty if it does not fit."""
    name: str


@dataclass(frozen=True)
class ChordLane:
    """A row of chords."""

    name: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Annotations:
    """What is drawn over a clip's spectrogram; the width is the clip's length."""

    beats_asked: str
    """The beats that were asked for, as an SVG path of lines from the top, `WIDTH` wide and 100 high; empty if none."""
    beats: str
    """The beats that were heard, as such a path of lines from the bottom."""
    lanes: tuple[ChordLane, ...]
    words: str
    """All of it in words, for readers who cannot see it."""
    width: int = WIDTH
    lane: int = LANE


def annotations(score: Row, seconds: float) -> Annotations | None:
    """Lay out the beats and chords of a row of `scores` over a clip of a length in seconds; None if it has none."""
    asked, heard = score.get("chords_asked") or [], score.get("chords") or []
    lanes = [_lane(name, chords, seconds) for name, chords in (("asked", asked), ("heard", heard)) if chords]
    beats_asked, beats = score.get("beats_asked") or [], score.get("beats") or []
    if not (lanes or beats_asked or beats):
        return None
    words = [f"{len(beats_asked)} beats asked, {len(beats)} heard"] if beats_asked else [f"{len(beats)} beats heard"]
    words += [f"chords {lane.name}: {' '.join(box.name for box in lane.boxes)}" for lane in lanes]
    return Annotations(
        _lines(beats_asked, seconds, 0, 22), _lines(beats, seconds, 78, 100), tuple(lanes), "; ".join(words)
    )


def _lines(times: Sequence[float], seconds: float, top: int, bottom: int) -> str:
    return "".join(f"M{WIDTH * time / seconds:.1f} {top}V{bottom}" for time in times if 0 <= time <= seconds)


def _lane(name: str, chords: Sequence[Mapping[str, Any]], seconds: float) -> ChordLane:
    boxes = []
    for chord in _joined(chords):
        x, end = (WIDTH * min(max(chord[side], 0.0), seconds) / seconds for side in ("start", "end"))
        text = chord_name(chord)
        if end > x:
            fits = len(text) * LETTER + 4 <= end - x
            boxes.append(Box(round(x, 1), round(end - x, 1), text if fits else "", text))
    return ChordLane(name, tuple(boxes))


def _joined(chords: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return chords, with successive chords of the same name joined to one."""
    joined: list[dict[str, Any]] = []
    for chord in chords:
        if joined and chord_name(joined[-1]) == chord_name(chord) and abs(joined[-1]["end"] - chord["start"]) < 0.05:
            joined[-1]["end"] = chord["end"]
        else:
            joined.append(dict(chord))
    return joined


def chord_name(chord: Mapping[str, Any]) -> str:
    """Return a chord as musicians write it, such as `Am7` or `C/E`; `–` for no chord."""
    if chord["root"] == NO_ROOT:
        return "–"
    bass = chord["root"] if chord.get("bass") in (None, NO_ROOT) else chord["bass"]
    return str(Chord(chord["root"], chord["quality"], bass))
