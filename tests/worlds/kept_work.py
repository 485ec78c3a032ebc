"""The rows of a table that a store holds, shown or not: published shards, drafts of whole shards, and parts of shards
in work."""

from schemas import Store
from schemas.storage.drafts import Drafts
from schemas.tables import Table


def kept_keys(store: Store, table: Table) -> list[tuple[str, ...]]:
    """The keys of all rows that were made, in every version, published or not."""
    keys = []
    for name in store.folders(table.name):
        drafts = Drafts(store, table, name.removeprefix("version="))
        keys += [tuple(row[key] for key in table.key) for row in drafts.read().to_pylist()]
        keys += [key for rows in drafts.unfinished_keys().values() for key in rows]
    return sorted(keys)
