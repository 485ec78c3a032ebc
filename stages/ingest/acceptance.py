"""What the rules make of the recordings that were measured: tracks, or rows of `withheld`, each with its reject.

Measuring and choosing are apart. A recording that is not accepted keeps its row, whole and in its shard, in `withheld`
instead of `tracks`. So another choice moves rows between the two tables, reads no sound, and touches no other row.

Whoever is killed between two tables must not lose a row: one that returns to `tracks` leaves `withheld` only after it
is there, and one that stands in both is put right by the next run.
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
    """The rows of a shard, as they are to stand."""

    accepted: Sequence[Row]
    withheld: Sequence[Row]
    returning: Sequence[Row]
    """Those accepted ones that stand in `withheld` until they are written among the tracks."""
    made: frozenset[str]
    """The `track_id` of each accepted row that is no track yet."""
    beside: bool
    """Whether the shard has, or had, rows in `withheld`."""


class Acceptance:
    """Which measured recordings are tracks, by rules that all of them must meet.

    Args:
        tracks, withheld: the rows of earlier runs, with at least the columns of `needed_columns`.

    Raises:
        ValueError: a condition cannot be worked out for a row.
    """

    def __init__(self, rules: Rules, tracks: pa.Table, withheld: pa.Table) -> None:
        self._rules = rules
        self._rejects: dict[int, dict[str, Reject]] = {}
        """The rejects of what is withheld, by shard and `track_id`."""
        self._tracks: set[str] = set()
        self._withheld: set[str] = set()
        self._beside = set(withheld.column("shard").to_pylist())
        """The shards that have rows in `withheld`, or had."""
        self.leaving: set[str] = set()
        """The `track_id` of each track that is no longer accepted."""
        self.returning: set[str] = set()
        """The `track_id` of each withheld recording that is to be a track, and of those that already are one."""
        self.shards: set[int] = set()
        """The shards in which rows change tables."""
        self._chooses = bool(rules.ask or withheld.num_rows)
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
        """The rejects of all that is withheld."""
        return [reject for rejects in self._rejects.values() for reject in rejects.values()]

    def is_settled(self, refused: pa.Table) -> bool:
        """Tell whether every row is in its table, and `refused` holds the rejects of all that is withheld."""
        return not self.shards and _states(refused) == {(reject.key, reject.stamp) for reject in self.rejects}

    def count_new_reasons(self, refused: pa.Table, besides: Collection[str]) -> int:
        """Count the withheld recordings that the rejects in `refused` do not give the present reason for.

        Args:
            besides: the `track_id` of those that are not to be counted.
        """
        recorded = _states(refused)
        return sum(
            (reject.key, reject.stamp) not in recorded
            for rejects in self._rejects.values()
            for track_id, reject in rejects.items()
            if track_id not in besides
        )

    def count_tracks(self, track_ids: Collection[str]) -> int:
        """Count those of some recordings that are tracks now."""
        return len([track_id for track_id in track_ids if track_id not in self._withheld])

    def enter_rejects(self, rejects: dict[str, Reject]) -> None:
        """Put the rejects of all that is withheld among others, by URI."""
        for reject in self.rejects:
            rejects.setdefault(reject.key, reject)

    def divide(self, shard: int, rows: Sequence[Row], rejects: dict[str, Reject]) -> Division:
        """Divide the whole rows of a shard between the tables, and bring the rejects of those withheld up to date."""
        if not self._chooses:
            return Division(rows, (), (), frozenset(), beside=False)
        schema = pa.schema([TRACKS.schema.field(name) for name in self._rules.columns])
        values = pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in rows], schema)
        refusals = self._rules.refusals(values)
        accepted = [row for row, refusal in zip(rows, refusals, strict=True) if not refusal]
        withheld = [row for row, refusal in zip(rows, refusals, strict=True) if refusal]
        returning = [row for row in accepted if row["track_id"] in self._withheld]
        made = frozenset(row["track_id"] for row in accepted) - self._tracks

        beside = bool(withheld) or shard in self._beside
        if withheld:
            self._beside.add(shard)
        for reject in self._rejects.pop(shard, {}).values():
            if rejects.get(reject.key) is reject:
                del rejects[reject.key]
        for row, refusal in zip(rows, refusals, strict=True):
            if refusal:
                reject = _reject(row["uri"], refusal)
                self._rejects.setdefault(shard, {})[row["track_id"]] = reject
                # A file that changed and cannot be read any more says so until its old row is dropped.
                if reject.key not in rejects or rejects[reject.key].kind == NOT_ACCEPTED:
                    rejects[reject.key] = reject
        self._tracks = (self._tracks | {row["track_id"] for row in accepted}) - {row["track_id"] for row in withheld}
        self._withheld = (self._withheld | {row["track_id"] for row in withheld}) - {
            row["track_id"] for row in returning
        }
        return Division(accepted, withheld, returning, made, beside)


def _reject(uri: str, refusal: str) -> Reject:
    # The runner keeps a reject of an earlier run where its stamp is the same.
    return Reject(uri, uri, NOT_ACCEPTED, refusal, hashlib.sha256(refusal.encode()).hexdigest()[:16])


def needed_columns(rules: Rules) -> tuple[str, ...]:
    """Return the columns of earlier rows that an `Acceptance` by these rules looks at."""
    return tuple(dict.fromkeys(("track_id", "shard", "uri", *rules.columns)))


def measured(tracks: pa.Table, withheld: pa.Table) -> pa.Table:
    """Return all recordings that were measured, the tracks before those withheld; both have the same columns."""
    return pa.concat_tables([tracks, withheld])


def _states(refused: pa.Table) -> set[tuple[str, str]]:
    return set(zip(refused.column("key").to_pylist(), refused.column("stamp").to_pylist(), strict=True))
