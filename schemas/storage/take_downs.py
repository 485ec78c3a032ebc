"""Take-downs: recordings that are refused for ever, and what in a store came from them.

A row of `taken_down` names the recording, the requests that refer to it, and the models that had learned from it by
then, directly or through a model that they were made from. Everything else follows from that row: ingest withholds the
recording wherever it comes from, those models count as not trained, and no view shows their clips.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

import pyarrow as pa

from schemas.identity import fingerprint
from schemas.sql import literal
from schemas.storage.store import Store
from schemas.tables import CHECKPOINTS, CLIPS, GENERATIONS, RECONSTRUCTIONS, SAMPLES, TAKEN_DOWN, VERDICTS, Row, Table

HIDDEN_BY: Mapping[str, tuple[str, ...]] = {
    GENERATIONS.name: ("checkpoint_id", "request_id"),
    VERDICTS.name: ("checkpoint_id", "request_id"),
    CLIPS.name: ("checkpoint_id", "request_id"),
    SAMPLES.name: ("checkpoint_id",),
    RECONSTRUCTIONS.name: ("checkpoint_id", "track_id"),
}
"""The tables with rows that a take-down hides, and the columns that decide which."""


@dataclass(frozen=True)
class Hidden:
    """What is hidden, by the column that identifies it."""

    checkpoint_id: frozenset[str]
    """Models that learned from a recording that was taken down, and models that were made from them."""
    request_id: frozenset[str]
    track_id: frozenset[str]

    def condition(self, table: Table) -> str:
        """Return the SQL condition that the shown rows of a table meet; empty where all rows are shown."""
        parts = []
        for column in HIDDEN_BY.get(table.name, ()):
            values = sorted(getattr(self, column))
            if values:
                literals = ", ".join(map(literal, values))
                parts.append(f"coalesce({column} NOT IN ({literals}), true)")
        return " AND ".join(parts)

    def shown(self, table: Table, rows: pa.Table) -> pa.Table:
        """Return the rows of a table that are shown; `rows` must have the table's columns in `HIDDEN_BY`."""
        for column in HIDDEN_BY.get(table.name, ()):
            if values := sorted(getattr(self, column)):
                rows = _without(rows, column, values)
        return rows


class TakeDowns:
    """The take-downs of a store at the time of the first access."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @cached_property
    def rows(self) -> list[Row]:
        rows: list[Row] = self._store.read_all(TAKEN_DOWN).to_pylist()
        return rows

    @property
    def reasons(self) -> dict[str, str]:
        """Why each recording was taken down, as a sentence, by its `track_id`."""
        return {row["track_id"]: f"{row['reason']} ({row['taken_down_at']:%Y-%m-%d})" for row in self.rows}

    @cached_property
    def hidden(self) -> Hidden:
        """What no view shows."""
        if not self.rows:
            return Hidden(frozenset(), frozenset(), frozenset())
        learned = {name for row in self.rows for name in row["checkpoints"] or ()}
        requests = frozenset(name for row in self.rows for name in row["requests"] or ())
        tracks = frozenset(row["track_id"] for row in self.rows)
        return Hidden(frozenset(with_descendants(self._store, learned)), requests, tracks)

    def add(self, rows: Sequence[Row]) -> None:
        """Write take-downs, one file for all of them. They replace earlier take-downs of the same recordings."""
        moment, names = datetime.now(UTC), sorted(row["track_id"] for row in rows)
        shard = fingerprint([moment.isoformat(), names])
        self._write(shard, pa.Table.from_pylist([{**row, "taken_down_at": moment} for row in rows], TAKEN_DOWN.schema))
        self._remove(names, keep=shard)  # after writing: a kill in between must not let anything back in

    def remove(self, track_ids: Collection[str]) -> int:
        """Undo the take-downs of some recordings, and return how many there were."""
        return self._remove(track_ids)

    def _remove(self, track_ids: Collection[str], keep: str | None = None) -> int:
        removed, names = 0, sorted(track_ids)
        for shard in self._store.shards(TAKEN_DOWN, "1"):
            rows = self._store.read(TAKEN_DOWN, "1", [shard])
            kept = _without(rows, "track_id", names)
            if shard == keep or kept.num_rows == rows.num_rows:
                continue
            removed += rows.num_rows - kept.num_rows
            if kept.num_rows:
                self._write(shard, kept)
            else:
                self._store.remove_shard(TAKEN_DOWN, "1", shard)
        for known in ("rows", "hidden"):
            self.__dict__.pop(known, None)
        return removed

    def _write(self, shard: str, rows: pa.Table) -> None:
        self._store.write_shard(TAKEN_DOWN, "1", shard, rows, input_key=shard)


def with_descendants(store: Store, checkpoint_ids: Collection[str]) -> set[str]:
    """Return the given models and all models that were made from them, directly or not."""
    children: dict[str, list[str]] = {}
    for row in store.read_all(CHECKPOINTS, ["checkpoint_id", "parents"]).to_pylist():
        for parent in row["parents"] or ():
            children.setdefault(parent, []).append(row["checkpoint_id"])
    descendants, waiting = set(checkpoint_ids), list(checkpoint_ids)
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in descendants:
                descendants.add(child)
                waiting.append(child)
    return descendants


def _without(rows: pa.Table, column: str, values: Sequence[str]) -> pa.Table:
    """Return the rows whose value in a column is not one of `values`."""
    import pyarrow.compute as pc  # takes a tenth of a second, which a store without take-downs saves

    return rows.filter(pc.invert(pc.is_in(rows.column(column), pa.array(values, pa.string()))))
