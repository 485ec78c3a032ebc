"""What requests refer to, found: the rows of tracks that the model learned from, and recordings.

Rows are read from the versions of the tables that the model learned from, and of each table only the shards that hold
the tracks that are asked for. To a model that learned from no table, one from elsewhere, a track is a recording.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from schemas.table import Table
from schemas.tables import CHROMA, CLAP, TOKENS, TRACKS
from stages.audio import AudioError, Recording, read_audio
from stages.checkpoints.facts import CheckpointFacts
from stages.pipeline.contract import Context
from stages.pipeline.references import Reference

SOURCES = {"melody": CHROMA, "clap": CLAP, "prompt": TOKENS}
"""The column of `requests` that refers to a track -> the table that holds what it is for."""

KEPT = 4
"""Recordings that stay in memory once they are read: requests often refer to the same ones in a row."""


class RequestRefused(ValueError):
    """A request that this model cannot follow; `kind` is the reject's short word."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Sources:
    """Finds what requests refer to.

    Args:
        facts: of the model that they are for.
    """

    def __init__(self, context: Context, facts: CheckpointFacts) -> None:
        self.context, self.facts = context, facts
        self._rows: dict[str, dict[str, dict]] = {name: {} for name in SOURCES}
        self._places: dict[str, str] = {}
        self._recordings: dict[str, Recording] = {}

    def look_up(self, requests: Sequence[Mapping[str, Any]]) -> None:
        """Read what the tables hold of all tracks that the requests refer to."""
        for column, table in SOURCES.items():
            references = [_reference(row[column]) for row in requests if row[column]]
            ids = {reference.value for reference in references if reference.kind == "track"}
            if ids and self._learned_from(table):
                self._rows[column] = self._read(table, ids)
            elif ids:
                self._places |= self._find(ids)

    def _learned_from(self, table: Table) -> bool:
        return table.name in self.facts.versions

    def _read(self, table: Table, ids: set[str]) -> dict[str, dict]:
        """The rows of some tracks by id; shard n of a table holds the tracks of shard n of `tracks`."""
        store, wanted, versions = self.context.store, pa.array(sorted(ids)), self.facts.versions
        tracks = store.read(TRACKS, versions[TRACKS.name], columns=["track_id", "shard"])
        shards = pc.unique(tracks.filter(pc.is_in(tracks.column("track_id"), wanted)).column("shard")).to_pylist()
        rows = store.read(table, versions[table.name], [str(shard) for shard in sorted(shards)])
        found = rows.filter(pc.is_in(rows.column("track_id"), wanted)).to_pylist()
        return {row["track_id"]: row for row in found}

    def _find(self, ids: set[str]) -> dict[str, str]:
        """Where the recordings of some tracks are, by id."""
        tracks = self.context.rows(TRACKS, ["track_id", "uri"])
        found = tracks.filter(pc.is_in(tracks.column("track_id"), pa.array(sorted(ids)))).to_pylist()
        return {row["track_id"]: row["uri"] for row in found}

    def reference(self, request: Mapping[str, Any], column: str) -> Reference:
        """What a column of a request refers to: words, a file, or a track that the model learned from.

        Raises:
            RequestRefused: a track that is not there.
        """
        reference = _reference(request[column])
        if reference.kind != "track" or self._learned_from(SOURCES[column]):
            return reference
        if reference.value not in self._places:
            message = f"{column}: expected the track {reference.value} in tracks, got no such row: it may come later"
            raise RequestRefused(f"unknown {column}", message)
        return Reference("file", self._places[reference.value])

    def row(self, column: str, reference: Reference) -> dict:
        """The row of a track in the table that the column is looked up in.

        Raises:
            RequestRefused: there is none.
        """
        row = self._rows[column].get(reference.value)
        if row is None:
            table = SOURCES[column]
            message = (
                f"expected the track {reference.value} in {table.name} (version {self.facts.versions[table.name]}, "
                "which the model learned from), got no such row: it may have been refused there, or come later"
            )
            raise RequestRefused(f"unknown {column}", f"{column}: {message}")
        return row

    def recording(self, column: str, reference: Reference) -> Recording:
        """The recording of a file.

        Raises:
            RequestRefused: it cannot be read.
        """
        if reference.value not in self._recordings:
            if len(self._recordings) == KEPT:
                del self._recordings[next(iter(self._recordings))]
            try:
                self._recordings[reference.value] = read_audio(reference.value)
            except AudioError as error:
                raise RequestRefused(f"unknown {column}", f"{column}: {error}") from error
        return self._recordings[reference.value]


def _reference(text: str) -> Reference:
    kind, _, value = text.partition(":")
    return Reference(kind, value)
