"""Records of a year of runs: combined into one file, counted once, and fast to query."""

import time
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from schemas import Store
from schemas.queries.database import query
from schemas.storage import records
from schemas.storage.records import combine_records
from schemas.tables import RUNS


def add_runs(store: Store, first: int, count: int) -> None:
    for number in range(first, first + count):
        row = {
            "run_id": f"run{number:06}",
            "stage": "ingest",
            "fingerprint": "v",
            "inputs": [("tracks", "v")],
            "started_at": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=number),
            "outputs": ["tracks"],
        }
        store.write_shard(RUNS, "1", f"run{number:06}-ingest", pa.Table.from_pylist([row], schema=RUNS.schema), "k")


def counted(store: Store) -> int:
    return query(store, "SELECT count(*) AS n FROM runs").to_pylist()[0]["n"]


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    return Store(str(tmp_path / "store") if request.param == "local" else f"memory://{tmp_path.name}")


def test_many_records_are_combined_into_one_file_and_none_is_lost(store):
    add_runs(store, 0, records.MOST_FILES)
    combine_records(store, "run")
    assert len(store.shards(RUNS, "1")) == records.MOST_FILES
    add_runs(store, records.MOST_FILES, 3)
    combine_records(store, "run")
    assert store.shards(RUNS, "1") == ["combined"]
    add_runs(store, 100, records.MOST_FILES)
    combine_records(store, "run")
    assert store.shards(RUNS, "1") == ["combined"]
    assert counted(store) == 2 * records.MOST_FILES + 3
    assert store.read(RUNS, "1").num_rows == 2 * records.MOST_FILES + 3


def test_a_kill_between_writing_and_removing_leaves_each_record_once(store, monkeypatch):
    add_runs(store, 0, 66)
    monkeypatch.setattr(Store, "remove_shard", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        combine_records(store, "killed")
    assert len(store.shards(RUNS, "1")) == 67
    assert (counted(store), store.read(RUNS, "1", columns=["stage"]).num_rows) == (66, 66)
    monkeypatch.undo()
    combine_records(store, "next")
    assert store.shards(RUNS, "1") == ["combined"]
    assert counted(store) == 66


def test_a_query_over_a_year_of_records_takes_less_than_a_second(tmp_path):
    store = Store(str(tmp_path))
    row = {"stage": "ingest", "fingerprint": "v", "outputs": ["tracks"], "inputs": []}
    started = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [row | {"run_id": f"run{n:06}", "started_at": started + timedelta(hours=n)} for n in range(10_000)]
    store.write_shard(RUNS, "1", records.COMBINED, pa.Table.from_pylist(rows, schema=RUNS.schema), "k")
    add_runs(store, 10_000, records.MOST_FILES - 1)
    combine_records(store, "run")
    seconds = []
    for _ in range(3):
        begun = time.process_time()
        assert counted(store) == 10_000 + records.MOST_FILES - 1
        seconds.append(time.process_time() - begun)
    assert min(seconds) < 1, seconds
