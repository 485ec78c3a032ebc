"""The rows of lhotse's manifests (a RecordingSet, a CutSet, or the cuts of a Shar folder), turned into rows like those
of AudioCraft's manifests: the `path` of a recording, and its fields.

Each row is a plain JSON object (lhotse's `docs/datasets.rst`, its `Recording`, `MonoCut` and `SupervisionSegment`), so
lhotse need not be imported. Recordings are taken in whole, also where a cut is only a part of one. In a Shar folder the
sound of a cut is the member of a tar file, beside the cuts, that is named by the cut's id.
"""

from collections.abc import Mapping, MutableMapping
from typing import Any

PART = "cuts that are only a part of their recording; the whole recording is used"

LEAST_DIFFERENCE = 0.05
"""Durations are rounded, so a cut is only taken for a part of its recording if it is shorter by at least this,
seconds."""

FILES = ("file", "url")
"""Kinds of sources that can be read from a place; others are commands, or bytes in the manifest."""

SHAR = "shar"
"""The kind of sources in a tar file of the same folder."""


def recording_row(row: Mapping[Any, Any], notes: MutableMapping[str, str]) -> Mapping[Any, Any]:
    """Return a row of lhotse's as a row that describes the recording at `path`, and any other row unchanged.

    Args:
        notes: receives what cannot be used, or is not taken in as the row says; the value is an example.
    """
    if "path" in row:
        return row
    recording = row if "sources" in row else row.get("recording")
    if not isinstance(recording, Mapping) or not isinstance(recording.get("sources"), list) or "id" not in row:
        return row
    path = _path(row, recording, notes)
    if _is_part(row, recording):
        notes.setdefault(PART, str(row["id"]))
    described = {"path": path} if path is not None else {}
    return described | _fields(row)


def _path(row: Mapping[Any, Any], recording: Mapping[Any, Any], notes: MutableMapping[str, str]) -> str | None:
    """Return where a recording is, or None if it cannot be read from one place."""
    sources = [source for source in recording["sources"] if isinstance(source, Mapping)]
    kinds = {str(source.get("type")) for source in sources}
    if kinds == {SHAR}:
        return str(row["id"])
    if len(sources) == 1 and kinds <= set(FILES):
        return str(sources[0].get("source"))
    what = "in several files" if len(sources) > 1 else f"of the kind {', '.join(sorted(kinds)) or 'nothing'}"
    notes.setdefault(f"lhotse recordings {what}; ignored", str(row["id"]))
    return None


def _is_part(row: Mapping[Any, Any], recording: Mapping[Any, Any]) -> bool:
    start, seconds, whole = row.get("start", 0), row.get("duration"), recording.get("duration")
    if not (isinstance(start, int | float) and isinstance(seconds, int | float) and isinstance(whole, int | float)):
        return False
    return bool(start > LEAST_DIFFERENCE or start + seconds < whole - LEAST_DIFFERENCE)


def _fields(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the fields in supervisions and in the cut itself: texts become the description, and whoever speaks or
    plays is an artist."""
    supervisions = [each for each in row.get("supervisions") or () if isinstance(each, Mapping)]
    fields: dict[str, Any] = {}
    for each in (*supervisions, row):
        fields |= each["custom"] if isinstance(each.get("custom"), Mapping) else {}
    texts = [str(each["text"]) for each in supervisions if each.get("text")]
    artists = [str(each["speaker"]) for each in supervisions if each.get("speaker")]
    from_supervisions = {"description": " ".join(dict.fromkeys(texts)), "artists": list(dict.fromkeys(artists))}
    return {name: value for name, value in from_supervisions.items() if value} | fields
