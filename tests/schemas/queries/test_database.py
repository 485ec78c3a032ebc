import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from schemas import Store
from schemas.queries import kept_database, made_from, table_views
from schemas.queries.columns import COLUMNS
from schemas.queries.database import query
from schemas.queries.errors import QueryError
from schemas.queries.kept_database import follow_move, write_views
from schemas.queries.table_views import FILE, PLACE_VARIABLE
from schemas.queries.views import EVERY_CLIP, VIEWS
from schemas.tables import REJECTS, REMARKS, RUNS, TABLES, TRACKS


def add_track(store: Store, version: str, name: str) -> None:
    rows = pa.Table.from_pylist([{"track_id": name, "title": name}], schema=TRACKS.schema)
    store.write_shard(TRACKS, version, "0", rows, input_key="k")


def add_run(store: Store, stage: str, version: str, minute: int) -> None:
    row = {"run_id": f"r{minute}", "stage": stage, "fingerprint": version, "outputs": ["tracks"]}
    row["started_at"] = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute)
    rows = pa.Table.from_pylist([row], schema=RUNS.schema)
    store.write_shard(RUNS, "1", f"r{minute}-{stage}", rows, input_key="k")


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    return Store(str(tmp_path / "it's a store") if request.param == "local" else f"memory://{tmp_path.name}")


def test_every_table_can_be_queried_in_an_empty_store(store):
    for table in TABLES.values():
        assert query(store, f"SELECT * FROM {table.name}").schema.names == table.schema.names
    assert query(store, "SHOW TABLES").num_rows == len(TABLES) + len(VIEWS)


def test_a_view_shows_the_version_of_the_latest_run_even_if_an_older_version(store):
    add_track(store, "aaa", "first")
    add_track(store, "zzz", "second")
    add_run(store, "ingest", "zzz", 1)
    add_run(store, "ingest", "aaa", 2)
    assert query(store, "SELECT title FROM tracks").to_pylist() == [{"title": "first"}]
    add_run(store, "ingest", "zzz", 3)
    assert query(store, "SELECT title FROM tracks").to_pylist() == [{"title": "second"}]


def test_records_show_every_version_and_rejects_and_remarks_only_the_current_ones(store):
    for version in ("old", "new"):
        rows = pa.Table.from_pylist([{"stage": "ingest", "what": version}], schema=REMARKS.schema)
        store.write_shard(REMARKS, version, "0", rows, input_key="k")
        rows = pa.Table.from_pylist([{"stage": "ingest", "key": version}], schema=REJECTS.schema)
        store.write_shard(REJECTS, version, "0", rows, input_key="k")
    add_run(store, "ingest", "old", 1)
    add_run(store, "ingest", "new", 2)
    assert query(store, "SELECT count(*) AS n FROM runs").to_pylist() == [{"n": 2}]
    assert query(store, "SELECT key FROM rejects").to_pylist() == [{"key": "new"}]
    assert query(store, "SELECT what FROM remarks").to_pylist() == [{"what": "new"}]


@pytest.mark.parametrize(
    "statement",
    [
        "COPY tracks TO 'out.csv'",
        "EXPLAIN ANALYZE COPY tracks TO 'out.csv'",
        "DROP VIEW tracks",
        "SELECT 1; SELECT 2",
        "ATTACH 'x.db'",
        "CREATE TABLE t AS SELECT 1",
        "SET threads = 1",
        "",
    ],
)
def test_a_statement_that_is_not_one_select_is_refused(store, statement, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(QueryError):
        query(store, statement)
    assert not (tmp_path / "out.csv").exists()


def test_a_wrong_query_raises_duckdbs_reason(store):
    with pytest.raises(QueryError, match="nope") as refused:
        query(store, "SELECT nope FROM tracks")
    assert "LINE 1" not in str(refused.value)
    assert query(store, "EXPLAIN SELECT * FROM tracks").num_rows == 1
    assert query(store, "DESCRIBE tracks").num_rows == len(TRACKS.schema)


@pytest.mark.parametrize(
    "name",
    ["copy.parquet", "._shard=0.parquet", "shard=0 (conflicted copy).parquet", "shard=0.sync-conflict.parquet"],
)
def test_a_foreign_file_among_the_shards_of_a_table_is_ignored(store, name):
    add_track(store, "v1", "first")
    store.write_bytes(f"tracks/version=v1/{name}", store.read_bytes("tracks/version=v1/shard=0.parquet"))
    assert query(store, "SELECT title FROM tracks").num_rows == 1
    if store.is_local:
        write_views(store)


def test_a_damaged_shard_is_named_with_its_cure_and_does_not_affect_other_tables(store, caplog):
    add_track(store, "v1", "first")
    store.write_bytes("tracks/version=v1/shard=0.parquet", b"half of a shar")
    for sql in ("SELECT * FROM tracks", "SELECT 1"):
        with pytest.raises(QueryError, match=r"expected shards of tracks.*shard=0\.parquet.*segue check"):
            query(store, sql)
    assert query(store, "SELECT * FROM tokens").num_rows == 0
    if store.is_local:
        write_views(store)
        assert "no view of tracks" in caplog.text
        with duckdb.connect(store.path(FILE), read_only=True) as client:
            assert client.execute("SELECT count(*) FROM tokens").fetchall() == [(0,)]


def test_artists_in_two_splits_are_listed_by_a_view(store):
    rows = [
        {"track_id": "a", "artists": ["One", "Two"], "split": "train"},
        {"track_id": "b", "artists": ["one"], "split": "valid"},
        {"track_id": "c", "artists": ["Three"], "split": "valid"},
    ]
    store.write_shard(TRACKS, "v1", "0", pa.Table.from_pylist(rows, schema=TRACKS.schema), "k")
    expected = [{"artist": "one", "splits": ["train", "valid"]}]
    assert query(store, "FROM artists_in_two_splits").to_pylist() == expected
    if store.is_local:
        write_views(store)
        with duckdb.connect(store.path(FILE), read_only=True) as client:
            assert client.execute("FROM artists_in_two_splits").fetchall() == [("one", ["train", "valid"])]


def test_a_duckdb_client_keeps_its_views_while_the_database_is_replaced(tmp_path):
    store = Store(str(tmp_path))
    add_track(store, "v1", "first")
    write_views(store)
    with duckdb.connect(str(tmp_path / FILE), read_only=True) as client:
        assert client.execute("SELECT title FROM tracks").fetchall() == [("first",)]
        add_track(store, "v2", "second")
        add_run(store, "ingest", "v2", 1)
        write_views(store)
        assert client.execute("SELECT title FROM tracks").fetchall() == [("first",)]
    with duckdb.connect(str(tmp_path / FILE), read_only=True) as client:
        assert client.execute("SELECT title FROM tracks").fetchall() == [("second",)]
    assert [path.name for path in tmp_path.iterdir() if "inprogress" in path.name] == []


def everything_in(path):
    """The views of a database, their columns with their types, and the comments of both."""
    with duckdb.connect(str(path / FILE), read_only=True) as client:
        views = client.execute("SELECT view_name, sql, comment FROM duckdb_views() WHERE NOT internal").fetchall()
        columns = "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() WHERE NOT internal"
        return sorted(views), sorted(client.execute(columns).fetchall())


def test_an_updated_database_equals_one_made_from_nothing(tmp_path):
    store = Store(str(tmp_path))
    for minute, version in enumerate(("v1", "v2", "v1")):
        add_track(store, version, version)
        add_run(store, "ingest", version, minute)
        write_views(store)
        assert titles(tmp_path) == [(version,)]
    updated = everything_in(tmp_path)
    (tmp_path / FILE).unlink()
    write_views(store)
    assert everything_in(tmp_path) == updated
    assert len(updated[0]) == len(TABLES) + len(VIEWS)


def test_views_of_tables_with_unchanged_files_are_not_made_again(tmp_path, monkeypatch):
    store, made = Store(str(tmp_path)), []
    add_track(store, "v1", "first")
    write_views(store)
    for module in (table_views, kept_database):
        monkeypatch.setattr(module, "create_view", lambda connection, statement, expected, store: made.append(expected))
    write_views(store)
    assert made == []
    add_track(store, "v1", "second")  # at the same path
    write_views(store)
    assert made == ["shards of tracks"]


def test_views_over_a_table_are_made_again_if_its_columns_changed(tmp_path, monkeypatch):
    store, made, create = Store(str(tmp_path)), [], table_views.create_view
    add_track(store, "v1", "first")
    write_views(store)
    for module in (table_views, kept_database):
        monkeypatch.setattr(module, "create_view", lambda *words: [made.append(words[2]), create(*words)])
    path = store.path(store.shard_path(TRACKS, "v1", "0"))
    rows = pa.parquet.read_table(path, partitioning=None)
    pa.parquet.write_table(rows.append_column("of_a_later_release", pa.array([1])), path)
    write_views(store)
    over = {name for name, view in VIEWS.items() if "tracks" in view.tables}
    assert set(made) == {"shards of tracks"} | over
    assert {"lineage", "artists_in_two_splits"} <= over
    with duckdb.connect(str(tmp_path / FILE), read_only=True) as client:
        assert client.execute("SELECT of_a_later_release FROM tracks").fetchall() == [(1,)]
        assert client.execute("FROM artists_in_two_splits").fetchall() == []


def test_a_view_over_a_table_shows_what_the_table_shows_now(tmp_path):
    store = Store(str(tmp_path))
    add_track(store, "v1", "first")
    write_views(store)
    rows = [{"track_id": name, "artists": ["One"], "split": name} for name in ("train", "valid")]
    store.write_shard(TRACKS, "v1", "0", pa.Table.from_pylist(rows, schema=TRACKS.schema), "k")
    write_views(store)
    with duckdb.connect(str(tmp_path / FILE), read_only=True) as client:
        assert client.execute("FROM artists_in_two_splits").fetchall() == [("one", ["train", "valid"])]


@pytest.mark.parametrize("change", ["a view", "the definitions", "what it says", "all of it"])
def test_a_database_that_was_changed_or_damaged_is_made_again(tmp_path, monkeypatch, change):
    store = Store(str(tmp_path))
    add_track(store, "v1", "first")
    write_views(store)
    expected = everything_in(tmp_path)
    if change == "the definitions":  # those of another release
        monkeypatch.setattr(made_from, "_definitions", lambda: "others")
    elif change == "all of it":
        (tmp_path / FILE).write_bytes(b"no database")
    else:
        with duckdb.connect(str(tmp_path / FILE)) as client:
            comment = f"COMMENT ON TYPE {made_from.TYPE} IS 'nothing'"
            client.execute("CREATE OR REPLACE VIEW tracks AS SELECT 1" if change == "a view" else comment)
    made, create = [], table_views.create_view
    for module in (table_views, kept_database):
        monkeypatch.setattr(module, "create_view", lambda *words: [made.append(words[2]), create(*words)])
    write_views(store)
    assert len(made) == len(TABLES) + len(VIEWS)
    assert everything_in(tmp_path) == expected


def test_a_database_that_is_updated_again_and_again_does_not_grow(tmp_path):
    store, sizes = Store(str(tmp_path)), []
    for number in range(12):
        add_track(store, "v1", f"title {number}")
        write_views(store)
        sizes.append((tmp_path / FILE).stat().st_size)
    assert max(sizes[6:]) <= 2 * sizes[0]


def test_a_view_of_a_damaged_shard_is_dropped_until_the_shard_is_made_again(tmp_path):
    store = Store(str(tmp_path))
    add_track(store, "v1", "first")
    write_views(store)
    store.write_bytes("tracks/version=v1/shard=0.parquet", b"half of a shar")
    write_views(store)
    names = {name for name, *_ in everything_in(tmp_path)[0]}
    assert names.isdisjoint({"tracks", "artists_in_two_splits"})
    assert "tokens" in names
    add_track(store, "v1", "second")
    write_views(store)
    assert titles(tmp_path) == [("second",)]


def test_every_view_and_column_has_a_comment_and_columns_their_unit(tmp_path):
    store = Store(str(tmp_path))
    add_track(store, "v1", "first")
    write_views(store)
    with duckdb.connect(str(tmp_path / FILE), read_only=True) as client:
        comments = client.execute("SELECT table_name, column_name, comment FROM duckdb_columns() WHERE NOT internal")
        told = {(table, column): comment for table, column, comment in comments.fetchall()}
        views = client.execute("SELECT view_name, comment FROM duckdb_views() WHERE NOT internal").fetchall()
    assert told["tracks", "loudness"] == COLUMNS["loudness"] == "integrated loudness, LUFS (ITU-R BS.1770)"
    assert {name for name, comment in told.items() if not comment} == set()
    assert dict(views)["tracks"] == "One row is a distinct recording."
    assert {name for name, comment in views if not comment} <= {EVERY_CLIP}


def titles(path, *before):
    with duckdb.connect(str(path / FILE), read_only=True) as client:
        for statement in before:
            client.execute(statement)
        return client.execute("SELECT title FROM tracks").fetchall()


@pytest.mark.parametrize("folder", [".", "..", "/"])
def test_any_client_reads_a_moved_store_from_any_working_directory(folder, tmp_path, monkeypatch):
    store = Store(str(tmp_path / "it's here"))
    add_track(store, "v1", "first")
    write_views(store)
    moved = (tmp_path / "it's here").rename(tmp_path / "and now there")
    monkeypatch.chdir(moved / folder)
    assert titles(Path(os.path.relpath(moved))) == [("first",)]
    assert query(Store(str(moved)), "SELECT title FROM tracks").to_pylist() == [{"title": "first"}]


def attached(*stores, opened=":memory:", before=()):
    """The titles of the tracks of several stores, each attached in a session of another client."""
    with duckdb.connect(str(opened)) as client:
        for number, store in enumerate(stores):
            client.execute(f"ATTACH '{store / FILE}' AS s{number} (READ_ONLY)")
        for statement in before:
            client.execute(statement)
        numbers = range(len(stores))
        return [client.execute(f"SELECT title FROM s{number}.tracks").fetchall()[0][0] for number in numbers]


def test_attached_stores_are_read_from_where_their_views_were_made_or_from_a_given_place(tmp_path):
    places = [tmp_path / "one", tmp_path / "other"]
    for place in places:
        add_track(Store(str(place)), "v1", place.name)
        write_views(Store(str(place)))
    assert attached(*places) == ["one", "other"]
    with pytest.raises(duckdb.InvalidInputException, match="one store in a session that opened its database"):
        attached(places[1], opened=places[0] / FILE)
    moved = places[0].rename(tmp_path / "moved")
    with pytest.raises(duckdb.IOException):
        attached(moved)
    assert attached(moved, before=[f"SET VARIABLE {PLACE_VARIABLE} = '{moved}'"]) == ["one"]
    follow_move(Store(str(moved)))
    assert attached(moved, places[1]) == ["one", "other"]


def test_a_copy_of_a_store_is_not_read_from_the_original(tmp_path):
    store = Store(str(tmp_path / "original"))
    add_track(store, "v1", "first")
    write_views(store)
    copy = Store(shutil.copytree(tmp_path / "original", tmp_path / "copy"))
    add_track(copy, "v1", "second")
    follow_move(copy)
    assert titles(tmp_path / "copy") == [("second",)]
    assert titles(tmp_path / "original") == [("first",)]


def test_the_database_of_a_store_that_was_not_moved_is_not_written_again(tmp_path):
    store = Store(str(tmp_path))
    add_track(store, "v1", "first")
    write_views(store)
    before = (tmp_path / FILE).stat().st_ino
    follow_move(store)
    assert (tmp_path / FILE).stat().st_ino == before


def test_a_view_over_files_of_an_earlier_release_has_every_column(tmp_path):
    store = Store(str(tmp_path))
    add_track(store, "v1", "first")
    path = store.path(store.shard_path(TRACKS, "v1", "0"))
    pa.parquet.write_table(pa.parquet.read_table(path, partitioning=None).drop_columns(["bpm", "split"]), path)
    assert query(store, "SELECT title, bpm, split FROM tracks").to_pylist() == [
        {"title": "first", "bpm": None, "split": None}
    ]
