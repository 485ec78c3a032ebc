"""Looking up what requests refer to: the rows of tracks that the model learned from, and recordings.

Rows are read from the versions of the tables that the model learned from, and of each table only the shards that hold
the tracks that are asked for. To a model that learned from no table, one from elsewhere, a track is a recording.
"""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from schemas.table import Row, Table
from schemas.tables import CHROMA, CLAP, TOKENS, TRACKS
from stages.audio import AudioError, DecodedAudio, read_audio
from stages.checkpoints.facts import CheckpointFacts
from stages.pipeline.contract import Context
from stages.pipeline.references import Reference, RequestRefused, rows_of_tracks

LOOKED_UP_IN = {"melody": CHROMA, "clap": CLAP, "prompt": TOKENS}
"""The column of `requests` that refers to a track -> the table that holds what it is for."""

KEPT_RECORDINGS = 4
"""Recordings that stay in memory once they are read: requests often refer to the same ones in a row."""


class ReferenceLookup:
    """Looks up what requests refer to.

    Args:
        facts: of the model that they are for.
    """

    def __init__(self, context: Context, facts: CheckpointFacts) -> None:
        self.context, self.facts = context, facts
        self._rows: dict[str, dict[str, Row]] = {column: {} for column in LOOKED_UP_IN}
        self._uris: dict[str, str] = {}
        self._recordings: dict[str, DecodedAudio] = {}

    def read_rows(self, requests: Sequence[Row]) -> None:
        """Read what the tables hold of all tracks that the requests refer to."""
        for column, table in LOOKED_UP_IN.items():
            references = [Reference.from_row(row[column]) for row in requests if row[column]]
            ids = {reference.value for reference in references if reference.kind == "track"}
            if ids and self._learned_from(table):
                self._rows[column] = rows_of_tracks(self.context.store, self.facts.versions, table, ids)
            elif ids:
                self._uris |= self._uris_of(ids)

    def _learned_from(self, table: Table) -> bool:
        return table.name in self.facts.versions

    def _uris_of(self, ids: set[str]) -> dict[str, str]:
        """Read where the recordings of some tracks are, by id."""
        tracks = self.context.rows(TRACKS, ["track_id", "uri"])
        tracks = tracks.filter(pc.is_in(tracks.column("track_id"), pa.array(sorted(ids))))
        return {row["track_id"]: row["uri"] for row in tracks.to_pylist()}

    def reference(self, request: Row, column: str) -> Reference:
        """Return what a column of a request refers to: words, a file, or a track that the model learned from.

        Raises:
            RequestRefused: a track that is not there.
        """
        reference = Reference.from_row(request[column])
        if reference.kind != "track" or self._learned_from(LOOKED_UP_IN[column]):
            return reference
        if reference.value not in self._uris:
            message = f"{column}: expected the track {reference.value} in tracks, got no such row: it may come later"
            raise RequestRefused(f"unknown {column}", message)
        return Reference("file", self._uris[reference.value])

    def row(self, column: str, reference: Reference) -> Row:
        """Return the row of a track in the table that the column is looked up in.

        Raises:
            RequestRefused: there is none.
        """
        row = self._rows[column].get(reference.value)
        if row is None:
            table = LOOKED_UP_IN[column]
            message = (
                f"expected the track {reference.value} in {table.name} (version {self.facts.versions[table.name]}, "
                "which the model learned from), got no such row: it may have been refused there, or come later"
            )
            raise RequestRefused(f"unknown {column}", f"{column}: {message}")
        return row

    def recording(self, column: str, reference: Reference) -> DecodedAudio:
        """Return the recording of a file.

        Raises:
            RequestRefused: it cannot be read.
        """
        if reference.value not in self._recordings:
            if len(self._recordings) == KEPT_RECORDINGS:
                del self._recordings[next(iter(self._recordings))]
            try:
                self._recordings[reference.value] = read_audio(reference.value)
            except AudioError as error:
                raise RequestRefused(f"unknown {column}", f"{column}: {error}") from error
        return self._recordings[reference.value]
