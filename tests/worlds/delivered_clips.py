"""A store with clips to export: several takes, names that are difficult for file systems, a training set with
licences."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from schemas import Store
from schemas.tables import CHECKPOINTS, GENERATIONS, LEARNED, SCORES
from tests.worlds.small_catalog import CHECKPOINT, VERSION, request_row, small_catalog, write

NAMES = ("opening", "../../etc/passwd", "CON", "Opening", "test", 'a<b>:"|?*\\', "Ünïcode ♪ 夜想曲")
"""The names of the requests; the first has two takes."""

SECRETS = ("Otter & Vale", "Silver Window (source)")
"""Artist and title of the training set."""

MADE = datetime(2026, 5, 4, 12, tzinfo=UTC)


def delivered_store(folder: Path, names: tuple[str, ...] = NAMES) -> Store:
    """Make the store; take 2 of the first request matches its description best."""
    requests = [
        request_row(number, request_id=f"{number:016x}", name=name, title=None, takes=1 + (number == 0))
        for number, name in enumerate(names)
    ]
    store = small_catalog(str(folder), requests).store
    store.require()
    for table in (GENERATIONS, SCORES):
        rows = store.read(table, VERSION).to_pylist()
        for row in rows:
            row |= {"created_at": MADE} if table is GENERATIONS else {}
            row |= {"clap_similarity": 0.9 if row["take"] > 1 else 0.1} if table is SCORES else {}
        write(store, table, rows)
    learned = [
        {"training_set": "set", "track_id": f"t{number}", "title": SECRETS[1], "artist": SECRETS[0], "licence": licence}
        for number, licence in enumerate(("CC BY 4.0", "CC BY 4.0", None))
    ]
    store.write_shard(LEARNED, "1", "set", pa.Table.from_pylist(learned, schema=LEARNED.schema), "k")
    model = next(row for row in store.read_all(CHECKPOINTS).to_pylist() if row["checkpoint_id"] == CHECKPOINT)
    for version in store.versions(CHECKPOINTS):
        for shard in store.shards(CHECKPOINTS, version):
            rows = store.read(CHECKPOINTS, version, [shard]).to_pylist()
            if rows[0]["checkpoint_id"] == CHECKPOINT:
                new = pa.Table.from_pylist([model | {"training_set": "set"}], schema=CHECKPOINTS.schema)
                store.write_shard(CHECKPOINTS, version, shard, new, "k")
    return store
