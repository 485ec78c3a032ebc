"""Records of runs: many small files merged into one, so that a query opens a few files.

Every stage of every run adds a file. A year of nightly and hourly runs would make ten thousand.
"""

from schemas.storage.leases import hold_lease
from schemas.storage.store import Store
from schemas.tables import CHECKS, RUNS

COMBINED = "combined"
"""The shard that holds the merged records."""

MOST_FILES = 64
"""Most files that a table of records may have; with more, they are merged."""


def combine_records(store: Store, run_id: str) -> None:
    """Merge the files of the tables of records that have more than `MOST_FILES`.

    The merged file is written before the others are removed. A run that is killed in between leaves rows twice, which
    the store's readers and views count once.
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
