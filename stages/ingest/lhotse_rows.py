"""The rows of lhotse's manifests (a RecordingSet, a CutSet, or the cuts of a Shar folder) as rows that describe a
recording, like AudioCraft's: its `path`, and its fields.

Each row is a plain JSON object (lhotse's `docs/datasets.rst`, its `Recording`, `MonoCut` and `SupervisionSegment`), so
nothing of lhotse is imported. A recording is taken in whole: of a cut that is a part of one, the part is not. In Shar
the sound of a cut is a member of a tar file beside the cuts that has the cut's id for a name.
"""

from collections.abc import Mapping, MutableMapping
from typing import Any

PART = "cuts that are a part of their recording, which was taken in whole"

LEAST_DIFFERENCE = 0.05
"""Seconds by which a cut is shorter than its recording if it is a part of it: durations are rounded."""

FILES = ("file", "url")
"""Kinds of sources that are somewhere to be read; others are commands and bytes in the manifest."""

SHAR = "shar"
"""The kind of what lies in a tar file of the same folder."""


def recording_row(row: Mapping[Any, Any], notes: MutableMapping[str, str]) -> Mapping[Any, Any]:
    """Return a row of lhotse's as one that describes the recording at `path`; any other row as it is.

    Args:
        notes: takes what could not be used, or is not taken in as it is said: an example by what it is.
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
    """Return where a recording is; None where it cannot be read from one place."""
    sources = [source for source in recording["sources"] if isinstance(source, Mapping)]
    kinds = {str(source.get("type")) for source in sources}
    if kinds == {SHAR}:
        return str(row["id"])
    if len(sources) == 1 and kinds <= set(FILES):
        return str(sources[0].get("source"))
    what = "several files" if len(sources) > 1 else f"of the kind {', '.join(sorted(kinds)) or 'nothing'}"
    notes.setdefault(f"recordings of lhotse that are {what}, which are not read", str(row["id"]))
    return None


def _is_part(row: Mapping[Any, Any], recording: Mapping[Any, Any]) -> bool:
    start, seconds, whole = row.get("start", 0), row.get("duration"), recording.get("duration")
    if not (isinstance(start, int | float) and isinstance(seconds, int | float) and isinstance(whole, int | float)):
        return False
    return bool(start > LEAST_DIFFERENCE or start + seconds < whole - LEAST_DIFFERENCE)


def _fields(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return what supervisions and the cut's own fields say: texts describe, who speaks or plays is the artist."""
    supervisions = [each for each in row.get("supervisions") or () if isinstance(each, Mapping)]
    fields: dict[str, Any] = {}
    for each in (*supervisions, row):
        fields |= each["custom"] if isinstance(each.get("custom"), Mapping) else {}
    texts = [str(each["text"]) for each in supervisions if each.get("text")]
    artists = [str(each["speaker"]) for each in supervisions if each.get("speaker")]
    told = {"description": " ".join(dict.fromkeys(texts)), "artists": list(dict.fromkeys(artists))}
    return {name: value for name, value in told.items() if value} | fields
