"""An overview of a store: what it holds of each table, which version is shown since when, and how the last run went."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from schemas.storage.holdings import FILE_FOLDERS, size_of, versions_of
from schemas.storage.publications import Publications
from schemas.storage.store import Store
from schemas.tables import PUBLISHED, RUNS, TABLES, Row


@dataclass(frozen=True)
class Holdings:
    """What a store holds of a table, or of files in a folder."""

    name: str
    bytes: int
    """Size of all versions together."""
    rows: int | None = None
    """Rows that the view shows; for records, all rows; None for a folder of files."""
    versions: int | None = None
    shown: str = ""
    """The version that the view shows."""
    published: datetime | None = None
    """When that version was published."""


def overview(store: Store) -> Iterator[Holdings]:
    """Yield what a store holds, table by table, and then the folders of files that rows name."""
    shown = Publications(store).shown()
    for table in TABLES.values():
        versions, size = versions_of(store, table), size_of(store, table.name)
        record = shown.get(table.name)
        if record is not None:
            rows = sum(shard.rows for shard in record.shards[table.name])
            yield Holdings(table.name, size, rows, len(versions), record.versions[table.name], record.created_at)
        elif versions:
            rows = sum(footer.rows for version in versions for footer in store.footers(table, version).values())
            yield Holdings(table.name, size, 0 if table.name in PUBLISHED else rows, len(versions))
    for folder in (*FILE_FOLDERS, "scratch"):
        size = size_of(store, folder)
        if size:
            yield Holdings(f"{folder}/", size)


@dataclass(frozen=True)
class LastRun:
    """The last run of a store, and the last error of any run."""

    run_id: str
    started_at: datetime
    stages: int
    error: Row | None
    """The row of `runs` with the last error; None where no run failed."""


def last_run(store: Store) -> LastRun | None:
    """Return how the last run went; None if there was none."""
    runs = sorted(store.read(RUNS, "1").to_pylist(), key=lambda row: (row["sequence"] or 0, row["started_at"]))
    if not runs:
        return None
    last = [row for row in runs if row["run_id"] == runs[-1]["run_id"]]
    error = next((row for row in reversed(runs) if row["error"]), None)
    return LastRun(runs[-1]["run_id"], last[0]["started_at"], len({row["stage"] for row in last}), error)
