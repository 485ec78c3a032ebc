"""Lineage and descendants in SQL: the views contain what a walk over the rows finds."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import Store
from schemas.queries.database import column_counts, query
from schemas.queries.kept_database import write_views
from schemas.queries.shown import shown_files
from schemas.queries.table_views import FILE
from schemas.storage.drafts import Drafts
from schemas.storage.publications import Publications
from schemas.tables import CHECKPOINTS, CLIPS, LEARNED, REQUESTS, TRACKS, WEIGHTS, Table

TRACKS_OF_ALL = [f"t{number}" for number in range(5)]

models = st.lists(
    st.tuples(st.sets(st.integers(0, 9)), st.sets(st.sampled_from(TRACKS_OF_ALL)), st.booleans()),
    min_size=1,
    max_size=6,
)
"""For each model: its parents among the models before it, the tracks it was trained on, and whether it has clips."""


def publish(store: Store, table: Table, rows: list[dict[str, Any]]) -> None:
    Drafts(store, table, "v").write("0", pa.Table.from_pylist(rows, schema=table.schema), "k")
    drafts = Drafts(store, table, "v")
    drafts.publish()
    Publications(store).publish("run", table.name, {table.name: ("v", drafts.manifest())})


def record(store: Store, table: Table, shard: str, rows: list[dict[str, Any]]) -> None:
    store.write_shard(table, "1", shard, pa.Table.from_pylist(rows, schema=table.schema), "k")


def write_models(store: Store, drawn: list[tuple[set[int], set[str], bool]]) -> dict[str, set[str]]:
    """Put models into a store, and return the parents of each."""
    parents: dict[str, set[str]] = {}
    for number, (before, tracks, _) in enumerate(drawn):
        name = f"m{number}"
        parents[name] = {f"m{other}" for other in before if other < number} | ({"elsewhere"} if number % 2 else set())
        described = [
            {"training_set": f"s{name}", "track_id": track, "title": f"of {track}"} for track in sorted(tracks)
        ]
        if described:
            record(store, LEARNED, f"s{name}", described)
        row = {"checkpoint_id": name, "kind": "codec" if number == 0 else "language_model", "digest": f"d{number}"}
        row |= {"parents": sorted(parents[name]), "training_set": f"s{name}" if described else None}
        record(store, CHECKPOINTS, name, [row | {"created_at": datetime(2026, 1, 1, tzinfo=UTC)}])
    record(store, WEIGHTS, "w", [{"reference": "somebody/text", "digest": "elsewhere"}])
    clips = [{"request_id": f"r{n}", "take": 1, "checkpoint_id": f"m{n}"} for n, one in enumerate(drawn) if one[2]]
    publish(store, CLIPS, [*clips, {"request_id": "foreign", "take": 1, "checkpoint_id": "elsewhere"}])
    return parents


def ancestors(name: str, parents: Mapping[str, set[str]]) -> Iterator[str]:
    """Walk up from a model, itself first; a model may occur several times."""
    yield name
    for parent in parents.get(name, ()):
        yield from ancestors(parent, parents)


@given(drawn=models)
@settings(max_examples=6, deadline=None)
def test_lineage_and_descendants_equal_a_walk_over_the_models(drawn, tmp_path_factory):
    store = Store(str(tmp_path_factory.mktemp("store")))
    parents = write_models(store, drawn)
    learned = {f"m{number}": tracks for number, (_, tracks, _) in enumerate(drawn)}
    expected = {
        (f"r{number}", model, track)
        for number, (_, _, has_clip) in enumerate(drawn)
        for model in ancestors(f"m{number}", parents)
        for track in learned.get(model) or {None}
        if has_clip
    } | {("foreign", "elsewhere", None)}
    rows = query(store, "SELECT request_id, model_id, track_id FROM lineage").to_pylist()
    assert sorted(map(str, (tuple(row.values()) for row in rows))) == sorted(map(str, expected))

    down = {
        (track, learner, f"m{number}", f"r{number}" if has_clip else None)
        for number, (_, _, has_clip) in enumerate(drawn)
        for learner in ancestors(f"m{number}", parents)
        for track in learned.get(learner, ())
    }
    rows = query(store, "SELECT track_id, learned_by, checkpoint_id, request_id FROM descendants").to_pylist()
    assert sorted(map(str, (tuple(row.values()) for row in rows))) == sorted(map(str, down))


def test_a_model_from_elsewhere_is_named_by_its_reference(tmp_path):
    store = Store(str(tmp_path))
    write_models(store, [(set(), {"t1"}, False), ({0}, {"t2"}, True)])
    rows = query(store, "SELECT model_id, kind, reference, distance, title FROM lineage ORDER BY ALL").to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("elsewhere", None, "somebody/text", 0, None),
        ("elsewhere", None, "somebody/text", 1, None),
        ("m0", "codec", None, 1, "of t1"),
        ("m1", "language_model", None, 0, "of t2"),
    ]


def test_a_recording_that_a_request_refers_to_is_in_the_lineage_of_its_clip(tmp_path):
    store = Store(str(tmp_path))
    write_models(store, [(set(), {"t1"}, True)])
    publish(store, REQUESTS, [{"request_id": "r0", "melody": "track:t4", "clap": "text:calm", "prompt": "file:/a.wav"}])
    publish(store, TRACKS, [{"track_id": "t4", "title": "Four", "licence": "CC0"}])
    rows = query(
        store, "SELECT how, track_id, title, licence FROM lineage WHERE request_id = 'r0' ORDER BY how"
    ).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("learned", "t1", "of t1", None),
        ("melody", "t4", "Four", "CC0"),
    ]
    rows = query(store, "SELECT how, request_id, checkpoint_id FROM descendants WHERE track_id = 't4'").to_pylist()
    assert [tuple(row.values()) for row in rows] == [("melody", "r0", "m0")]


def test_a_query_about_one_clip_does_not_pair_all_clips_with_all_recordings(tmp_path):
    """DuckDB's own count of the rows of each operator, for 300 clips and 300 recordings."""
    store, count = Store(str(tmp_path)), 300
    record(store, LEARNED, "s", [{"training_set": "s", "track_id": f"t{n}"} for n in range(count)])
    row = {"checkpoint_id": "m", "kind": "language_model", "training_set": "s", "parents": []}
    record(store, CHECKPOINTS, "m", [row | {"created_at": datetime(2026, 1, 1, tzinfo=UTC)}])
    publish(store, CLIPS, [{"request_id": f"r{n}", "take": 1, "checkpoint_id": "m"} for n in range(count)])
    write_views(store)
    for view, condition in (("lineage", "request_id = 'r7'"), ("descendants", "track_id = 't7'")):
        with duckdb.connect(str(tmp_path / FILE), read_only=True) as connection:
            sql = f"EXPLAIN (ANALYZE, FORMAT JSON) SELECT count(*) FROM {view} WHERE {condition}"
            [(_, profile)] = connection.execute(sql).fetchall()
        largest = max(_rows_of(json.loads(profile)["operator"]))
        assert count <= largest <= 2 * count, (view, largest)


def _rows_of(operators: list[dict[str, Any]]) -> Iterator[int]:
    for operator in operators:
        yield operator["intermediate_rows"]
        yield from _rows_of(operator.get("children", []))


def clip(take: int, reasons: list[str] | None) -> dict[str, Any]:
    row = {"request_id": "r", "take": take, "checkpoint_id": "m", "path": f"audio/{take}", "sha256": f"d{take}"}
    return row | {"reasons": reasons}


def test_clips_shows_passed_clips_and_quarantine_the_others_with_their_reasons(tmp_path):
    store = Store(str(tmp_path))
    publish(store, CLIPS, [clip(1, []), clip(2, ["expected sound, got none", "noise"]), clip(3, None)])
    assert takes_of(store, "clips") == [1, 3]  # a clip of an earlier release has no reasons at all
    assert takes_of(store, "every_clip") == [1, 2, 3]
    (row,) = query(store, "SELECT take, stage, reasons, path FROM quarantine").to_pylist()
    assert row == {"take": 2, "stage": "gate", "reasons": ["expected sound, got none", "noise"], "path": "audio/2"}
    write_views(store)
    with duckdb.connect(str(tmp_path / FILE), read_only=True) as connection:
        assert connection.sql("SELECT take FROM clips ORDER BY take").fetchall() == [(1,), (3,)]
        assert connection.sql("SELECT take FROM quarantine").fetchall() == [(2,)]


def test_lineage_contains_only_shown_clips(tmp_path):
    store = Store(str(tmp_path))
    record(store, CHECKPOINTS, "m", [{"checkpoint_id": "m", "kind": "language_model", "digest": "d"}])
    publish(store, CLIPS, [clip(1, []), clip(2, ["noise"])])
    assert takes_of(store, "lineage") == [1]


def test_given_files_are_queried_with_their_quarantined_rows(tmp_path):
    store = Store(str(tmp_path))
    publish(store, CLIPS, [clip(1, []), clip(2, ["noise"])])
    files = shown_files(store, [CLIPS.name])[CLIPS.name]
    assert query(store, "SELECT take FROM clips", {CLIPS.name: files}).num_rows == 2
    assert column_counts(store, CLIPS, files).rows == 2


def takes_of(store: Store, view: str) -> list[int]:
    return query(store, f"SELECT take FROM {view} ORDER BY take").column("take").to_pylist()
