"""Catalogs: the states that the views showed one after another. All publications of a run are one catalog."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from schemas.storage.publications import Action, Publication, Publications


@dataclass(frozen=True)
class Catalog:
    """The publications of one run, or one change by hand."""

    sequence: int
    """The number of its last publication, which `segue rollback` takes."""
    action: Action
    created_at: datetime
    run_id: str | None
    rows: Mapping[str, int]
    """How many rows it published of each table, by the table's name."""
    is_shown: bool
    """Whether the views show it now, for the tables that it published."""


def catalogs(publications: Publications) -> Iterator[Catalog]:
    """Yield the catalogs of a store, newest first."""
    latest = publications.latest()
    newest_shown = max(latest.shown.values(), default=0) if latest else 0
    group: list[Publication] = []
    for sequence in reversed(publications.sequences()):
        record = publications.record(sequence)
        if group and not (record.action == "stage" and record.run_id == group[0].run_id):
            yield _catalog(group, newest_shown)
            group = []
        group.append(record)
    if group:
        yield _catalog(group, newest_shown)


def catalog_before(publications: Publications) -> int:
    """Return the number of the last publication of the catalog before the one that the views show now.

    Raises:
        ValueError: there is no earlier catalog.
    """
    latest = publications.latest()
    shown = dict(latest.shown) if latest else {}
    sequences = [sequence for sequence in publications.sequences() if sequence < max(shown.values(), default=0)]
    run_id = publications.record(max(shown.values())).run_id if shown else None
    for sequence in reversed(sequences):
        record = publications.record(sequence)
        if record.run_id != run_id and record.shown and record.shown != shown:
            return sequence
    raise ValueError(
        f"expected an earlier catalog than the one that is shown, got none in {publications.store.url}; see: "
        "segue rollback --list"
    )


def _catalog(records: list[Publication], newest_shown: int) -> Catalog:
    last = records[0]
    rows = {
        name: sum(shard.rows for shard in shards)
        for record in reversed(records)
        for name, shards in record.shards.items()
    }
    is_shown = newest_shown in {record.sequence for record in records}
    return Catalog(last.sequence, last.action, last.created_at, last.run_id, rows, is_shown)
