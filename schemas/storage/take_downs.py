"""Take-downs: recordings that are refused for ever, and what of a store came of them.

A row of `taken_down` names the recording, the models that had learned from it by then, themselves or through a model
that they were made with, and the requests that refer to it. From that row follows everything: ingest withholds the
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
"""The tables of which rows are hidden after a take-down, and the columns that say which."""


@dataclass(frozen=True)
class Hidden:
    """What is hidden, by the column that names it."""

    checkpoint_id: frozenset[str]
    """Models that learned from what was taken down, and those that were made with them."""
    request_id: frozenset[str]
    track_id: frozenset[str]

    def condition(self, table: Table) -> str:
        """Return the condition in SQL that a shown row of a table meets; empty where all are shown."""
        parts = []
        for column in HIDDEN_BY.get(table.name, ()):
            values = sorted(getattr(self, column))
            if values:
                literals = ", ".join(map(literal, values))
                parts.append(f"coalesce({column} NOT IN ({literals}), true)")
        return " AND ".join(parts)

    def shown(self, table: Table, rows: pa.Table) -> pa.Table:
        """Return those of a table's rows that are shown; `rows` have the columns of `HIDDEN_BY`."""
        for column in HIDDEN_BY.get(table.name, ()):
            if values := sorted(getattr(self, column)):
                rows = _without(rows, column, values)
        return rows


class TakeDowns:
    """The take-downs of a store, as they stand now."""

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
        """Write take-downs, one file for all of them, in the place of earlier ones of the same recordings."""
        moment, names = datetime.now(UTC), sorted(row["track_id"] for row in rows)
        shard = fingerprint([moment.isoformat(), names])
        self._write(shard, pa.Table.from_pylist([{**row, "taken_down_at": moment} for row in rows], TAKEN_DOWN.schema))
        self._remove(names, besides=shard)  # not before: a kill in between must not let anything back in

    def remove(self, track_ids: Collection[str]) -> int:
        """Take take-downs back, and return how many there were."""
        return self._remove(track_ids)

    def _remove(self, track_ids: Collection[str], besides: str | None = None) -> int:
        removed, names = 0, sorted(track_ids)
        for shard in self._store.shards(TAKEN_DOWN, "1"):
            rows = self._store.read(TAKEN_DOWN, "1", [shard])
            kept = _without(rows, "track_id", names)
            if shard == besides or kept.num_rows == rows.num_rows:
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
    """Return some models with all that were made with one of them, directly or not."""
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
    """Return the rows that have none of some values in a column."""
    import pyarrow.compute as pc  # a tenth of a second, which a store without take-downs does without

    return rows.filter(pc.invert(pc.is_in(rows.column(column), pa.array(values, pa.string()))))
