"""Records of runs, which grow by a file for every stage of every run: a year of nightly and hourly ones is put together
into one file, so that a query opens a few files and not ten thousand."""

from schemas.storage.leases import hold_lease
from schemas.storage.store import Store
from schemas.tables import CHECKS, RUNS

COMBINED = "combined"
"""The shard that holds what was put together."""

MOST_FILES = 64
"""Files of a table of records from which on they are put together."""


def combine_records(store: Store, run_id: str) -> None:
    """Put the records of runs together where there are many files of them.

    The combined file is written before the others go. Whoever is killed in between leaves rows twice, which the store's
    readers and views count once.
    """
    for table in (RUNS, CHECKS):
        if len(store.shards(table, "1")) <= MOST_FILES:
            continue
        with hold_lease(store, "records", run_id, lambda holder: None, lambda: None) as (lease, _):
            shards = store.shards(table, "1")
            rows = store.read(table, "1", shards)
            lease.check()
            store.write_shard(table, "1", COMBINED, rows, input_key=COMBINED)
            for shard in shards:
                if shard != COMBINED:
                    store.remove_shard(table, "1", shard)
