"""Readings: what a job read of recordings, as rows that are kept until the recordings are entered."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.tables import PRINTS, TRACKS
from stages.analysis import Print
from stages.ingest.listing import File
from stages.ingest.probe import AudioProbe, Refused

UNREAD = pa.schema([(name, pa.string()) for name in ("uri", "relative", "stamp")] + [("size", pa.int64())])
"""A file to be read. The columns are the fields of `File`."""

_MEASURED = tuple(name for name in AudioProbe.__dataclass_fields__ if name in TRACKS.schema.names)
_PRINT = ("peak_frames", "peak_pitches")

READING = pa.schema(
    [
        *((name, pa.string()) for name in ("uri", "stamp", "kind", "message", "tags")),
        *(TRACKS.schema.field(name) for name in _MEASURED),
        *(PRINTS.schema.field(name) for name in _PRINT),
    ]
)
"""The result for a file: its measures, or `kind` and `message` of why it is refused."""


def unread_table(files: Sequence[File]) -> pa.Table:
    """Return files as rows of `UNREAD`."""
    return pa.table({name: [getattr(file, name) for file in files] for name in UNREAD.names}, schema=UNREAD)


def files_of(unread: pa.Table) -> Iterator[File]:
    """Yield the files of rows of `UNREAD`."""
    for row in unread.to_pylist():
        yield File(**row)


def reading_row(file: File, result: AudioProbe | Refused) -> dict[str, Any]:
    """Return the result for a file as a row of `READING`."""
    row: dict[str, Any] = {"uri": file.uri, "stamp": file.stamp}
    if isinstance(result, Refused):
        return row | {"kind": result.kind, "message": result.message}
    row |= {name: getattr(result, name) for name in (*_MEASURED, "tags")}
    peaks = result.peaks
    return row if peaks is None else row | {"peak_frames": peaks.frames, "peak_pitches": peaks.pitches}


def result_of(reading: pa.Table) -> AudioProbe | Refused:
    """Return the result for a file from a table that has only its row of `READING`."""
    (row,) = reading.select([name for name in READING.names if name not in _PRINT]).to_pylist()
    if row["kind"] is not None:
        return Refused(row["kind"], row["message"])
    frames, pitches = (reading.column(name)[0].values for name in _PRINT)
    peaks = None
    if frames is not None:
        peaks = Print(frames.to_numpy().astype(np.int32), pitches.to_numpy().astype(np.uint8))
    return AudioProbe(**{name: row[name] for name in (*_MEASURED, "tags")}, peaks=peaks)
