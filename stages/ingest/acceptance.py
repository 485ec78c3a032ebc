"""Acceptance: what the rules make of measured recordings, which is tracks, or rows of `withheld` with a reject each.

Measuring and choosing are separate. A recording that is not accepted keeps its whole row and its shard, in `withheld`
instead of `tracks`. So a change of rules moves rows between the two tables; it reads no sound and touches no other row.

A run that is killed between writing the two tables must not lose a row. So a row that returns to `tracks` is removed
from `withheld` only after it has been written there, and the next run removes a row that is in both.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import TRACKS
from stages.ingest.rules import Rules
from stages.pipeline.contract import NOT_ACCEPTED, Reject

Row = dict[str, Any]


@dataclass(frozen=True)
class Division:
    """The rows of one shard, divided between the two tables."""

    accepted: Sequence[Row]
    withheld: Sequence[Row]
    returning: Sequence[Row]
    """The accepted rows that must stay in `withheld` until they are written to `tracks`."""
    made: frozenset[str]
    """The `track_id` of each accepted row that is not a track yet."""
    has_withheld: bool
    """Whether the shard has, or had, rows in `withheld`."""


class Acceptance:
    """Decides which measured recordings are tracks: those that meet all rules.

    Args:
        tracks, withheld: the rows of earlier runs, with at least the columns of `needed_columns`.

    Raises:
        ValueError: a condition cannot be evaluated for a row.
    """

    def __init__(self, rules: Rules, tracks: pa.Table, withheld: pa.Table) -> None:
        self._rules = rules
        self._rejects: dict[int, dict[str, Reject]] = {}
        """The rejects of withheld recordings, by shard and `track_id`."""
        self._tracks: set[str] = set()
        self._withheld: set[str] = set()
        self._withheld_shards = set(withheld.column("shard").to_pylist())
        """The shards that have or had rows in `withheld`."""
        self.leaving: set[str] = set()
        """The `track_id` of each track that is no longer accepted."""
        self.returning: set[str] = set()
        """The `track_id` of each withheld recording that becomes a track, and of each that is in both tables."""
        self.shards: set[int] = set()
        """The shards in which rows change tables."""
        self._chooses = bool(rules.has_any or withheld.num_rows)
        if self._chooses:
            self._compare(tracks, withheld)

    def _compare(self, tracks: pa.Table, withheld: pa.Table) -> None:
        self._tracks = set(tracks.column("track_id").to_pylist())
        self._withheld = set(withheld.column("track_id").to_pylist())
        leaving = tracks.filter(pc.invert(self._rules.met(tracks)))
        self.leaving.update(leaving.column("track_id").to_pylist())
        self.shards.update(leaving.column("shard").to_pylist())
        rows = withheld.select(("track_id", "shard", "uri")).to_pylist()
        for row, refusal in zip(rows, self._rules.refusals(withheld), strict=True):
            if not refusal or row["track_id"] in self._tracks:
                self.returning.add(row["track_id"])
                self.shards.add(row["shard"])
            if refusal:
                self._rejects.setdefault(row["shard"], {})[row["track_id"]] = _reject(row["uri"], refusal)

    @property
    def rejects(self) -> list[Reject]:
        """The rejects of all withheld recordings."""
        return [reject for rejects in self._rejects.values() for reject in rejects.values()]

    def is_settled(self, refused: pa.Table) -> bool:
        """Tell whether every row is in the right table, and `refused` holds the rejects of all withheld recordings."""
        return not self.shards and _states(refused) == {(reject.key, reject.stamp) for reject in self.rejects}

    def count_new_reasons(self, refused: pa.Table, except_for: Collection[str]) -> int:
        """Count the withheld recordings whose present reason is not among the rejects in `refused`.

        Args:
            except_for: the `track_id` of recordings that are not counted.
        """
        recorded = _states(refused)
        return sum(
            (reject.key, reject.stamp) not in recorded
            for rejects in self._rejects.values()
            for track_id, reject in rejects.items()
            if track_id not in except_for
        )

    def count_tracks(self, track_ids: Collection[str]) -> int:
        """Count how many of these recordings are tracks now, and not withheld."""
        return len([track_id for track_id in track_ids if track_id not in self._withheld])

    def enter_rejects(self, rejects: dict[str, Reject]) -> None:
        """Add the rejects of all withheld recordings to `rejects`, by URI. Those that are already there stay."""
        for reject in self.rejects:
            rejects.setdefault(reject.key, reject)

    def divide(self, shard: int, rows: Sequence[Row], rejects: dict[str, Reject]) -> Division:
        """Divide the whole rows of a shard between the two tables, and update `rejects` for those that are withheld."""
        if not self._chooses:
            return Division(rows, (), (), frozenset(), has_withheld=False)
        schema = pa.schema([TRACKS.schema.field(name) for name in self._rules.columns])
        values = pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in rows], schema)
        refusals = self._rules.refusals(values)
        accepted = [row for row, refusal in zip(rows, refusals, strict=True) if not refusal]
        withheld = [row for row, refusal in zip(rows, refusals, strict=True) if refusal]
        returning = [row for row in accepted if row["track_id"] in self._withheld]
        made = frozenset(row["track_id"] for row in accepted) - self._tracks

        has_withheld = bool(withheld) or shard in self._withheld_shards
        if withheld:
            self._withheld_shards.add(shard)
        for reject in self._rejects.pop(shard, {}).values():
            if rejects.get(reject.key) is reject:
                del rejects[reject.key]
        for row, refusal in zip(rows, refusals, strict=True):
            if refusal:
                reject = _reject(row["uri"], refusal)
                self._rejects.setdefault(shard, {})[row["track_id"]] = reject
                # A changed file that can no longer be read keeps the reject that says so until its old row is dropped.
                if reject.key not in rejects or rejects[reject.key].kind == NOT_ACCEPTED:
                    rejects[reject.key] = reject
        self._tracks = (self._tracks | {row["track_id"] for row in accepted}) - {row["track_id"] for row in withheld}
        self._withheld = (self._withheld | {row["track_id"] for row in withheld}) - {
            row["track_id"] for row in returning
        }
        return Division(accepted, withheld, returning, made, has_withheld)


def _reject(uri: str, refusal: str) -> Reject:
    # The stamp is a hash of the reason, since the runner keeps a reject of an earlier run that has the same stamp.
    return Reject(uri, uri, NOT_ACCEPTED, refusal, hashlib.sha256(refusal.encode()).hexdigest()[:16])


def needed_columns(rules: Rules) -> tuple[str, ...]:
    """Return the columns of earlier runs' rows that an `Acceptance` by these rules needs."""
    return tuple(dict.fromkeys(("track_id", "shard", "uri", *rules.columns)))


def measured(tracks: pa.Table, withheld: pa.Table) -> pa.Table:
    """Return all measured recordings, the tracks before the withheld ones. Both tables must have the same columns."""
    return pa.concat_tables([tracks, withheld])


def _states(refused: pa.Table) -> set[tuple[str, str]]:
    return set(zip(refused.column("key").to_pylist(), refused.column("stamp").to_pylist(), strict=True))
