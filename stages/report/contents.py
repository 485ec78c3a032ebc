"""What lies in the store: each table's versions, rows and bytes."""

from dataclasses import dataclass

from schemas import Store
from schemas.records import RUNS
from schemas.tables import TABLES


@dataclass(frozen=True)
class TableSize:
    """A table of the store, all of its versions together."""

    name: str
    about: str
    versions: int
    shards: int
    rows: int
    bytes: int


def table_sizes(store: Store) -> list[TableSize]:
    """The tables that have at least one shard, in the order of the flow of data. Footers alone are read."""
    sizes = []
    for table in TABLES.values():
        versions = store.versions(table)
        shards = rows = size = 0
        for version in versions:
            listed = store.filesystem.ls(store.path(store.folder(table, version)), detail=True)
            bytes_of = {entry["name"].rsplit("/", 1)[-1]: int(entry["size"] or 0) for entry in listed}
            for shard in store.shards(table, version):
                # A record of a run is one row; a store has thousands of them, and each footer is a request.
                footer = None if table == RUNS else store.footer(table, version, shard)
                shards, rows = shards + 1, rows + (footer.rows if footer else 1)
                size += bytes_of.get(f"shard={shard}.parquet", 0)
        if shards:
            sizes.append(TableSize(table.name, table.about, len(versions), shards, rows, size))
    return sizes
