"""The columns of a clip that the page shows, sorts and filters by. Measures have the names that they have on the score
card."""

import math
from dataclasses import dataclass
from typing import Literal

from schemas.tables import Row
from stages.report.score_card import FOLLOWED, SOUND

Unit = Literal["share", "right", "cosine", "Hz", "s", "LUFS", "dBTP", "full scale"]

LENGTH_TOLERANCE = 0.02
"""How far a clip's length may differ from the length that was asked for, seconds."""


@dataclass(frozen=True)
class Column:
    """A value that a clip may have."""

    name: str
    """The column's name in its table."""
    words: str
    about: str
    unit: Unit


_UNITS: dict[str, Unit] = {
    **dict.fromkeys(("key_correct", "bpm_correct", "bpm_correct_octave", "drums_correct", "seconds_correct"), "right"),
    "clap_similarity": "cosine",
    "centroid": "Hz",
    **dict.fromkeys(("head_silence", "tail_silence"), "s"),
    "dc": "full scale",
}
"""Units of measures of single clips that are not shares."""

_OF_SETS = ("mel_fd", "fad_clap")
"""Measures that only sets of clips have."""

COLUMNS = (
    *(Column(name, *words, _UNITS.get(name, "share")) for name, words in FOLLOWED.items()),
    Column("nearest_similarity", "Nearest track", "CLAP cosine with the nearest training track", "cosine"),
    *(Column(name, *words, _UNITS.get(name, "share")) for name, words in SOUND.items() if name not in _OF_SETS),
    Column("clipping", "Clipping", "share of samples at or beyond full scale", "share"),
    Column("loudness", "Loudness", "integrated", "LUFS"),
    Column("true_peak", "True peak", "", "dBTP"),
    Column("seconds", "Playing time", "", "s"),
)
"""Every column; first those that measure what was asked for."""

HEADLINES = (
    *("chroma_similarity", "key_correct", "bpm_correct", "beat_f_measure", "chord_accuracy"),
    *("clap_similarity", "drums_correct", "instrument_recall", "nearest_similarity"),
)
"""Columns that a row of the list shows, as far as there is room."""

WORDS = {column.name: column.words for column in COLUMNS}
"""Column -> its name on the page."""


def values(clip: Row, score: Row) -> dict[str, float]:
    """Return a clip's values by column, without columns that have no value. In columns of right and wrong, right is 1
    and wrong is 0."""
    row = {**score, **{name: clip[name] for name in ("loudness", "true_peak", "seconds")}}
    row["seconds_correct"] = has_its_length(score)
    known = {column.name: row.get(column.name) for column in COLUMNS}
    numbers = {name: float(value) for name, value in known.items() if value is not None}
    return {name: round(value, 5) for name, value in numbers.items() if math.isfinite(value)}


def has_its_length(score: Row) -> bool | None:
    """Return whether a clip is as long as asked; None if the length was not measured."""
    asked = score.get("seconds_asked")
    return None if asked is None else abs(score["seconds"] - asked) <= LENGTH_TOLERANCE
