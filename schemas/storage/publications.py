"""Publications: which files the views show, as a sequence of records that are never rewritten.

A stage that ended without error and passed its checks adds a record of what its tables then held, shard by shard. So a
failed stage changes nothing that users see, and every earlier catalog is one record away. A record may also hold the
views where they are, take them back to an earlier record, or release them.

Records are ordered by number, not by time: a machine whose clock is slow still publishes after the records that it
read.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import pyarrow as pa

from schemas.storage.drafts import Drafts, PublishedShard
from schemas.storage.shards import encode_shard
from schemas.storage.store import Store
from schemas.tables import PUBLICATIONS, TABLES, Row, Table

Action = Literal["stage", "hold", "rollback", "release"]


@dataclass(frozen=True)
class Publication:
    """One record: what it published itself, and what the views show after it."""

    sequence: int
    action: Action
    run_id: str | None
    stage: str | None
    created_at: datetime
    versions: Mapping[str, str] = field(default_factory=dict)
    """The version that it published of each table, by the table's name."""
    shards: Mapping[str, list[PublishedShard]] = field(default_factory=dict)
    """The shards that it published of each table, by the table's name."""
    passed: Mapping[str, int] = field(default_factory=dict)
    """The number of the record that last published each table, by the table's name."""
    shown: Mapping[str, int] = field(default_factory=dict)
    """The number of the record whose rows the view of each table shows, by the table's name."""
    held: bool = False
    """Whether the views stay as they are, whatever passes, until they are released."""


_Following = Callable[["Publication | None", int], Publication]
"""Makes the next record from the newest (None if there is none) and the next record's number."""


class Publications:
    """The publications of a store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._read: dict[int, Publication] = {}

    def sequences(self) -> list[int]:
        """Return the numbers of all records, in order."""
        return [int(shard) for shard in self.store.shards(PUBLICATIONS, "1") if shard.isdecimal()]

    def latest(self) -> Publication | None:
        """Return the newest record; None in a store where nothing has been published."""
        sequences = self.sequences()
        return self.record(sequences[-1]) if sequences else None

    def record(self, sequence: int) -> Publication:
        """Return a record by its number.

        Raises:
            ValueError: there is no such record.
        """
        if sequence not in self._read:
            rows = self.store.read(PUBLICATIONS, "1", [_shard(sequence)]).to_pylist()
            if not rows:
                numbers = self.sequences()
                span = f"{numbers[0]} to {numbers[-1]}" if numbers else "none"
                removed = ", which `segue clean` has removed" if numbers and 0 < sequence < numbers[-1] else ""
                raise ValueError(f"expected the number of a publication ({span}), got {sequence}{removed}")
            self._read[sequence] = _of_row(rows[0])
        return self._read[sequence]

    def shown(self, names: Collection[str] | None = None) -> dict[str, Publication]:
        """Return the record that the view of each table shows, by the table's name; without tables that were never
        published, or whose record was damaged and set aside.

        Args:
            names: names of the tables; None for all.
        """
        sequences = self.sequences()
        shown = self.record(sequences[-1]).shown if sequences else {}
        return {
            name: self.record(number)
            for name, number in shown.items()
            if number in sequences and (names is None or name in names)
        }

    def shown_files(self, names: Collection[str]) -> dict[str, list[str]]:
        """Return the files that the views of the named tables read, by the table's name; without tables that `shown`
        leaves out."""
        return {name: self.files_of(TABLES[name], record) for name, record in self.shown(names).items()}

    def files_of(self, table: Table, record: Publication) -> list[str]:
        """Return the files that hold what a record published of a table. Those that were replaced since are in the
        history."""
        version = record.versions[table.name]
        replaced = Drafts(self.store, table, version).replaced()
        return [
            replaced.get((shard.shard, shard.digest)) or self.store.shard_path(table, version, shard.shard)
            for shard in record.shards[table.name]
        ]

    def is_current(self, table: Table, version: str, shards: Iterable[PublishedShard]) -> bool:
        """Return whether the record that last published the table has exactly this version and these shards."""
        latest = self.latest()
        sequence = latest.passed.get(table.name) if latest else None
        if sequence is None or sequence not in self.sequences():
            return False
        record = self.record(sequence)
        return record.versions[table.name] == version and record.shards[table.name] == list(shards)

    def publish(self, run_id: str, stage: str, tables: Mapping[str, tuple[str, list[PublishedShard]]]) -> Publication:
        """Add the record of a stage that passed.

        Args:
            tables: the version and the shards of each table that the stage made, by the table's name.
        """
        versions = {name: version for name, (version, _) in tables.items()}
        shards = {name: shards for name, (_, shards) in tables.items()}

        def following(latest: Publication | None, sequence: int) -> Publication:
            passed = {**(latest.passed if latest else {}), **dict.fromkeys(tables, sequence)}
            held = latest is not None and latest.held
            shown = latest.shown if latest and held else passed
            return Publication(
                sequence, "stage", run_id, stage, datetime.now(UTC), versions, shards, passed, shown, held
            )

        return self._append(following)

    def hold(self) -> Publication:
        """Keep the views as they are, whatever passes from now on."""
        return self._by_hand("hold", None)

    def roll_back(self, sequence: int) -> Publication:
        """Show what was shown after the record `sequence`, and keep the views there.

        Raises:
            ValueError: there is no such record, or files that it names are gone.
        """
        record = self.record(sequence)
        for name, number in record.shown.items():
            published = self.record(number)
            files = self.files_of(TABLES[name], published)
            for file, shard in zip(files, published.shards[name], strict=True):
                footer = self.store.footer_of(file)
                if footer is None or footer.data_digest != shard.digest:
                    raise ValueError(
                        f"expected shard {shard.shard} of {name} as publication {number} had it, got none in "
                        f"{self.store.url}: `segue clean` has removed it; choose a later publication"
                    )
        return self._by_hand("rollback", record)

    def release(self) -> Publication:
        """Show what passed last, and let the views follow new records from now on."""
        return self._by_hand("release", None)

    def _by_hand(self, action: Action, target: Publication | None) -> Publication:
        def following(latest: Publication | None, sequence: int) -> Publication:
            passed = latest.passed if latest else {}
            shown = passed if action == "release" or latest is None else (target or latest).shown
            held = action != "release"
            return Publication(sequence, action, None, None, datetime.now(UTC), {}, {}, passed, shown, held)

        return self._append(following)

    def _append(self, following: _Following) -> Publication:
        """Write the record that follows the newest. Try again if another process took its number meanwhile."""
        while True:
            latest = self.latest()
            record = following(latest, latest.sequence + 1 if latest else 1)
            where = self.store.shard_path(PUBLICATIONS, "1", _shard(record.sequence))
            rows = pa.Table.from_pylist([_to_row(record)], schema=PUBLICATIONS.schema)
            if self.store.write_new(where, encode_shard(PUBLICATIONS, rows, record.run_id or "", where)):
                return record


def _shard(sequence: int) -> str:
    return f"{sequence:012d}"


def _to_row(record: Publication) -> Row:
    shards = [
        {"table": name, "shard": shard.shard, "digest": shard.digest, "rows": shard.rows}
        for name, published in record.shards.items()
        for shard in published
    ]
    row = {name: getattr(record, name) for name in PUBLICATIONS.schema.names if name != "shards"}
    maps = {name: list(row[name].items()) for name in ("versions", "passed", "shown")}
    return row | maps | {"shards": shards}


def _of_row(row: Row) -> Publication:
    shards: dict[str, list[PublishedShard]] = {name: [] for name, _ in row["versions"]}
    for shard in row["shards"]:
        shards[shard["table"]].append(PublishedShard(shard["shard"], shard["digest"], shard["rows"]))
    maps = {name: dict(row[name]) for name in ("versions", "passed", "shown")}
    return Publication(**(row | maps | {"shards": shards}))
