"""Which files the views of tables read: the latest publication of derived data, and all versions of records."""

from collections.abc import Iterable

from schemas.storage.publications import Publications
from schemas.storage.store import Store
from schemas.tables import BESIDE, RUNS, TABLES, Row


def shown_files(store: Store, names: Iterable[str] = tuple(TABLES)) -> dict[str, list[str]]:
    """Return the files that the views of some tables read, by the table's name."""
    return shown_files_by(Publications(store), names)


def shown_files_by(publications: Publications, names: Iterable[str]) -> dict[str, list[str]]:
    store, wanted = publications.store, [TABLES[name] for name in names]
    if not wanted:
        return {}
    published = publications.shown_files({table.name for table in wanted})
    # A run writes a record for each of its stages. They are read only if they decide what is shown.
    by_runs = any(table.name not in published and (table in BESIDE or not table.accumulates) for table in wanted)
    ordered = _runs_in_order(store) if by_runs else []
    last_of_stage = {run["stage"]: run["fingerprint"] for run in ordered}
    shown = {}
    for table in wanted:
        if table.name in published:
            shown[table.name] = published[table.name]
            continue
        versions = store.versions(table)
        if table in BESIDE:
            versions = [version for version in versions if version in last_of_stage.values()]
        elif not table.accumulates:
            # A store of an early release, which has no publications yet.
            passed = [run["fingerprint"] for run in ordered if table.name in run["outputs"] and not run["error"]]
            versions = [version for version in (*passed[-1:], *versions[-1:]) if version in versions][:1]
        shown[table.name] = [
            store.shard_path(table, version, shard) for version in versions for shard in store.shards(table, version)
        ]
    return shown


def _runs_in_order(store: Store) -> list[Row]:
    """Return the records of runs in the order of the runs."""
    runs = store.read(RUNS, "1", columns=["stage", "fingerprint", "started_at", "outputs", "error", "sequence"])
    return sorted(runs.to_pylist(), key=lambda row: (row["sequence"] or 0, row["started_at"]))
