"""The metadata fields of a recording, made safe: typed, bounded, free of control characters, each by itself.

Metadata is written by other people and programs. A field that has the wrong type or is out of bounds is dropped, and a
warning says so; the track is never lost. Nothing that reads a value takes it for a path, a query or markup.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stages.audio.keys import parse_key
from stages.ingest.artists import distinct, split_names
from stages.ingest.texts import broken_text, no_description

TEXT_LENGTHS = {
    "title": 500,
    "artist": 500,
    "album": 500,
    "genre": 500,
    "instrument": 500,
    "key": 100,
    "description": 5_000,
    "licence": 500,
    "lyrics": 20_000,
}
"""The text columns of `tracks` with the most characters that each may have; longer texts are cut."""

LIST_LENGTHS = {"artists": 500, "moods": 100, "keywords": 100, "paraphrases": 5_000}
"""The list columns of `tracks` with the most characters that an item may have; longer items are cut."""

LIST_ITEMS = 64
"""Most items of a list."""

BPM_RANGE = (20.0, 400.0)
"""Range of plausible tempi, in beats a minute; others are dropped."""

GAIN_RANGE = (-60.0, 60.0)
"""Range of plausible ReplayGain values, in decibels; others are dropped."""

FIELDS = (*TEXT_LENGTHS, *LIST_LENGTHS, "bpm", "replay_gain")

_ALIASES = {"license": "licence", "mood": "moods", "caption": "description", "text": "description", "tempo": "bpm"}
_ALIASES |= {"replaygain_track_gain": "replay_gain"}
"""Other names of the same fields. If a field is there under its own name too, that counts."""

_TEMPO = re.compile(
    r"(?:[~≈]|ca?\.?|approx\.?|approximately|about|around|circa|♩ ?=)?\s*(\d+(?:[.,]\d+)?)"
    r"(?:\s*(?:-|–|—|to|\.\.)\s*(\d+(?:[.,]\d+)?))?\s*(?:bpm|b\.p\.m\.|beats per minute)?",
    re.IGNORECASE,
)
"""A tempo as people write it: a number with a decimal point or comma, an approximate number, or a range."""

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufffe\uffff]+")
"""Control characters, and marks that change the direction of the text after them."""

_SURROGATES = re.compile("[\ud800-\udfff]")
WARNINGS = 20
"""Most warnings that are kept for one track."""


@dataclass(frozen=True)
class Fields:
    """The metadata in one table, sidecar, manifest or file's tags. `values` has only known fields, typed as in
    `tracks`."""

    values: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def to_json(self) -> str:
        return json.dumps({"values": self.values, "warnings": self.warnings}, sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Fields":
        loaded = json.loads(text)
        return cls(loaded["values"], tuple(loaded["warnings"]))


def read_fields(raw: Mapping[Any, Any], where: str, separators: str = ";,") -> Fields:
    """Read the fields of `tracks` from a mapping that comes from outside; other names are ignored.

    Args:
        raw: names and values as a parser gave them.
        where: how the warnings name the mapping, such as by the file's name.
        separators: the characters between the items of a list that is given as one text.
    """
    lowered = [(name.strip().lower(), value) for name, value in raw.items() if isinstance(name, str)]
    named: dict[str, Any] = {name: value for name, value in lowered if name in FIELDS}
    for name, value in lowered:
        if name in _ALIASES:
            named.setdefault(_ALIASES[name], value)
    if "artist" not in named and "artists" in named:
        named["artist"] = named["artists"]
    values: dict[str, Any] = {}
    warnings = []
    for name, value in sorted(named.items()):
        try:
            known, remark = _typed(name, value, separators)
        except ValueError as error:
            known, remark = None, f"{error}, so it was dropped"
        if remark:
            warnings.append(f"{clean_text(where)[:200]}: {name}: {remark}")
        if known is not None:
            values[name] = known
    if "artist" in values and "artists" not in values:
        values |= {name: artists for name, artists in (("artists", _artists(named["artist"])),) if artists}
    return Fields(values, tuple(warnings))


def resolve(ranked: Iterable[Fields]) -> Fields:
    """Merge fields: for each name the first that has it counts. Warnings are kept without repetitions."""
    values: dict[str, Any] = {}
    warnings: dict[str, None] = {}
    for fields in ranked:
        values = {**fields.values, **values}
        warnings.update(dict.fromkeys(fields.warnings))
    return Fields(values, tuple(list(warnings)[:WARNINGS]))


def clean_text(text: str) -> str:
    """Return `text` without control characters and surrogates, and runs of white space as one space."""
    if not text.isprintable():  # true of every text without control characters, surrogates and unusual white space
        text = _UNSAFE.sub(" ", _SURROGATES.sub("\ufffd", text))
    return " ".join(text.split())


def _typed(name: str, value: Any, separators: str) -> tuple[Any, str | None]:
    """Return a value as its column needs it (None: unknown), and a sentence if it was changed.

    Raises:
        ValueError: it has the wrong type or is out of bounds.
    """
    if value is None or value == "" or value == [] or (isinstance(value, float) and math.isnan(value)):
        return None, None
    if name == "bpm":
        return _tempo(value)
    if name == "replay_gain":
        return _gain(value), None
    if name == "artists":
        return _artists(value) or None, None
    if name in LIST_LENGTHS:
        # Sentences contain the characters that separate the items of other lists, so one text is one paraphrase.
        value = [value] if name == "paraphrases" and isinstance(value, str) else value
        return _typed_items(value, separators, LIST_LENGTHS[name])
    if isinstance(value, list | tuple):
        value = ", ".join(_scalar_text(item) for item in value[:LIST_ITEMS])
    elif isinstance(value, str) and separators == ";" and ";" in value and name in ("instrument", "genre"):
        value = ", ".join(part.strip() for part in value.split(";") if part.strip())
    text, longest = clean_text(_scalar_text(value)), TEXT_LENGTHS[name]
    if not text:
        return None, None
    if name == "key":
        return _key(text), None
    if name == "description" and (reason := no_description(text)):
        raise ValueError(f"expected a description of the music, got {reason}: {_shorten(text)}")
    if len(text) > longest:
        return text[:longest].rstrip(), f"expected at most {longest} characters, got {len(text):,}, so it was cut"
    if reason := broken_text(text):
        return text, f"expected readable text, got {reason}: {_shorten(text)}"
    return text, None


def _scalar_text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"expected text, got {_shorten(value)}")
    if isinstance(value, str) and not value.isprintable() and _SURROGATES.search(value):
        raise ValueError("expected UTF-8, got other bytes")
    return str(value)


def _key(text: str) -> str:
    key = parse_key(text) if len(text) <= TEXT_LENGTHS["key"] else None
    if key is None:
        raise ValueError(f"expected a key such as A minor, Am or 8A, got {_shorten(text)}")
    return key


def _artists(value: Any) -> list[str]:
    """Return the artists that a text, or a list of texts, names."""
    if not isinstance(value, list | tuple):
        value = [value]
    texts = [clean_text(_scalar_text(item))[: LIST_LENGTHS["artists"]] for item in value[:LIST_ITEMS]]
    return distinct(name for text in texts for name in split_names(text))[:LIST_ITEMS]


def _tempo(value: Any) -> tuple[float | None, str | None]:
    low, high = BPM_RANGE
    expected = f"expected a number from {low:g} to {high:g}"
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    remark = None
    if isinstance(value, str):
        if not value.strip():
            return None, None
        match = _TEMPO.fullmatch(value.strip()[:100])
        try:
            number = _decimal(match[1]) if match else float(value)
        except ValueError:
            raise ValueError(f"{expected}, got {_shorten(value)}") from None
        if match and match[2]:
            remark = f"expected one tempo, got a range, so its middle was used: {_shorten(value)}"
            ends = (number, _decimal(match[2]))
            number = sum(ends) / 2 if low <= min(ends) and max(ends) <= high else math.inf
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{expected}, got {_shorten(value)}")
    else:
        number = value
    if number == 0:  # what taggers write for "unknown"
        return None, None
    if not low <= number <= high:
        raise ValueError(f"{expected}, got {_shorten(value)}")
    return float(number), remark


def _decimal(text: str) -> float:
    return float(text.replace(",", "."))


def _gain(value: Any) -> float:
    """Return a gain in decibels from a text such as `-6.3 dB`, or from a number."""
    low, high = GAIN_RANGE
    text = _scalar_text(value[0] if isinstance(value, list | tuple) and len(value) == 1 else value)
    match = re.fullmatch(r"\s*([+-]?\d+(?:[.,]\d+)?)\s*(?:db)?\s*", text, re.IGNORECASE)
    if not match or not low <= _decimal(match[1]) <= high:
        raise ValueError(f"expected a gain from {low:g} to {high:g} dB, got {_shorten(value)}")
    return _decimal(match[1])


def _typed_items(value: Any, separators: str, longest: int) -> tuple[list[str] | None, str | None]:
    if isinstance(value, str):
        value = re.split(f"[{re.escape(separators)}]", _scalar_text(value))
    if not isinstance(value, list | tuple):
        raise ValueError(f"expected a list of texts, got {_shorten(value)}")
    # Cut before cleaning: a list of a million items must not take long.
    texts = [clean_text(_scalar_text(item)[: 4 * longest]) for item in value[: 4 * LIST_ITEMS]]
    kept = list(dict.fromkeys(text[:longest].rstrip() for text in texts if text))[:LIST_ITEMS]
    if len(value) > LIST_ITEMS or any(len(text) > longest for text in texts):
        limit = f"at most {LIST_ITEMS} items of {longest:,} characters"
        return kept or None, f"expected {limit}, got more, so it was cut"
    return kept or None, None


def _shorten(value: Any) -> str:
    """Return a short text for a value of any kind, for use in a sentence."""
    if isinstance(value, Mapping | list | tuple | set):
        return f"a {'mapping' if isinstance(value, Mapping) else 'list'} of {len(value):,}"
    if isinstance(value, int) and value.bit_length() > 128:
        return "a number of more than 38 digits"
    text = clean_text(repr(value) if not isinstance(value, bytes) else f"{len(value):,} bytes")
    return text if len(text) <= 60 else f"{text[:57]}…"
