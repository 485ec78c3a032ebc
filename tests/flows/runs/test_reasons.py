"""The most frequent reasons of refusals and remarks, with an example each, and the query that lists all of them."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from flows.runs.reasons import COMMONEST, LONGEST, plan_remark_lines, reason_lines
from schemas import Store
from schemas.tables import CLIPS, REJECTS, REMARKS, RUNS, Table
from stages.pipeline.plans import Plan
from stages.pipeline.remarks import Remark


def _write(store: Store, table: Table, shard: str, rows: list[dict], version: str = "v") -> None:
    store.write_shard(table, version, shard, pa.Table.from_pylist(rows, schema=table.schema), input_key="k")


@pytest.fixture
def store(tmp_path):
    """A store in which a stage ran that refused nothing."""
    store = Store(str(tmp_path))
    run = {"run_id": "r", "stage": "ingest", "fingerprint": "v", "started_at": datetime.now(UTC), "outputs": ["tracks"]}
    _write(store, RUNS, "r", [run], "1")
    return store


def _rejects(*kinds: str) -> list[dict]:
    return [
        {
            "stage": "ingest",
            "key": f"{number:03}",
            "uri": f"/m/{number}.wav",
            "kind": kind,
            "message": f"expected {kind}",
        }
        for number, kind in enumerate(kinds)
    ]


def test_without_refusals_and_remarks_there_are_no_lines(store):
    assert reason_lines(store, ["ingest"]) == []
    assert reason_lines(store, []) == []


def test_the_most_frequent_refusals_come_first_with_an_example_and_the_query(store):
    kinds = ["silent"] * 3 + ["empty"] * 2 + [f"kind {number}" for number in range(5)]
    _write(store, REJECTS, "0", _rejects(*kinds))
    lines = reason_lines(store, ["ingest"])
    assert lines[0] == "refused 10:"
    assert lines[1] == "  3 × ingest: silent, such as /m/0.wav: expected silent"
    assert lines[2] == "  2 × ingest: empty, such as /m/3.wav: expected empty"
    assert len(lines) == 1 + COMMONEST + 1
    assert lines[-1].startswith('  all of them, and 2 more kinds: `segue sql "SELECT stage, kind, uri, message FROM')
    assert lines[-1].endswith(f"--store {store.root}`")
    assert reason_lines(store, ["chroma"]) == []


def test_quarantined_clips_are_listed_with_their_reasons(store):
    run = {"run_id": "s", "stage": "decode", "fingerprint": "v", "started_at": datetime.now(UTC), "outputs": ["clips"]}
    _write(store, RUNS, "s", [run], "1")
    clip = {"take": 1, "reasons": ["dc: expected none, got some"]}
    rows = [{"request_id": f"r{number}", "sha256": f"{number}", **clip} for number in range(3)]
    _write(store, CLIPS, "0", [*rows, {"request_id": "whole", "take": 1, "sha256": "4", "reasons": []}])
    lines = reason_lines(store, ["gate", "decode"])
    assert lines[0] == "quarantined 3, which `clips` does not show:"
    assert lines[1] == "  3 × gate, such as dc: expected none, got some"
    assert "FROM quarantine" in lines[-1]
    assert reason_lines(store, ["ingest"]) == []


def test_remarks_of_all_shards_are_summed(store):
    what = {"stage": "ingest", "what": "odd", "location": "a.csv"}
    _write(store, REMARKS, "0", [what | {"count": 2, "examples": ["x", "y"]}])
    _write(store, REMARKS, "1", [what | {"count": 1000, "examples": []}, what | {"what": "rare", "count": 1}])
    lines = reason_lines(store, ["ingest"])
    assert lines[:3] == ["noticed:", "  1,002 × ingest: odd (a.csv), such as x", "  1 × ingest: rare (a.csv)"]


def test_a_line_has_a_shortened_example_and_the_whole_reason(store):
    [reject] = _rejects("silent")
    reason = "expected sound, " + "and more of it, " * 40 + "got silence"
    _write(store, REJECTS, "0", [reject | {"uri": "/m/new\nline" + "y" * 10_000, "message": reason}])
    line = reason_lines(store, ["ingest"])[1]
    assert "\n" not in line
    assert len(line) < LONGEST + len(reason) + 60
    assert line.endswith(f": {reason}")


def test_a_damaged_store_has_no_lines(store):
    store.write_bytes(store.shard_path(REMARKS, "v", "0"), b"half of a shar")
    assert reason_lines(store, ["ingest"]) == []


def test_the_remarks_of_a_plan_are_listed_with_the_most_frequent_first():
    remarks = (Remark("rare", "", 1, ()), Remark("odd", "a.csv", 3, ("x", "y")))
    assert plan_remark_lines([Plan("chroma"), Plan("ingest", remarks=remarks)]) == [
        "3 × ingest: odd (a.csv), such as x",
        "1 × ingest: rare",
    ]
