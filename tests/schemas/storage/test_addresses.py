"""Addresses of recordings inside a store: written relative to it, and read relative to its current place."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas import Store
from schemas.queries.database import query
from schemas.queries.kept_database import write_views
from schemas.queries.table_views import FILE
from schemas.storage.addresses import STORE_PREFIX
from schemas.tables import REJECTS, TRACKS

OUTSIDE = ("/music/a.flac", "s3://bucket/a.flac", "tar://a.flac::/music/more.tar", "/music/store/a.flac")


def tracks(uris: list[str | None]) -> pa.Table:
    """Rows of tracks; the first has two files, and the last has no list of files."""
    rows: list[dict] = [
        {"track_id": f"{number:02}", "uri": uri, "files": [{"uri": uri, "stamp": "1", "tags": None}]}
        for number, uri in enumerate(uris)
    ]
    rows[0]["files"].append({"uri": "/elsewhere/copy.flac", "stamp": "2", "tags": "{}"})
    rows.append({"track_id": "last", "uri": None, "files": None})
    return pa.Table.from_pylist(rows, schema=TRACKS.schema)


def inside(store: Store) -> list[str]:
    """Addresses in a store."""
    place = store.location()
    return [f"{place}/demo/it's a.flac", f"tar://x.flac::{place}/more.tar", f"{place}/demo/Ünï.wav"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store whose name has characters with a meaning in patterns, with tracks inside it and elsewhere."""
    store = Store(str(tmp_path / "a (store) it's + $"))
    rows = tracks([*inside(store), *OUTSIDE])
    store.write_shard(TRACKS, "v", "0", rows, "k")
    return store


def uris(rows: list[dict]) -> list:
    """All addresses in rows of tracks."""
    return [row["uri"] for row in rows] + [file["uri"] for row in rows for file in row["files"] or ()]


def test_rows_are_read_back_as_they_were_written(store: Store) -> None:
    assert store.read(TRACKS, "v").equals(tracks([*inside(store), *OUTSIDE]))


@pytest.mark.parametrize("names", [("uri", "stamp"), ("uri",), ("stamp",)])
def test_a_part_of_the_fields_of_records_is_read_as_among_all_fields(store: Store, names: tuple[str, ...]) -> None:
    some = store.read(TRACKS, "v", columns=["track_id", *(f"files.{name}" for name in names)]).to_pylist()
    for row, whole in zip(some, store.read(TRACKS, "v").to_pylist(), strict=True):
        files = whole["files"] and [{name: file[name] for name in names} for file in whole["files"]]
        assert row == {"track_id": whole["track_id"], "files": files}


def test_a_file_of_rows_does_not_contain_the_place_of_the_store(store: Store) -> None:
    rows = pq.ParquetFile(store.path(store.shard_path(TRACKS, "v", "0"))).read().to_pylist()
    assert not [uri for uri in uris(rows) if uri and store.root in uri]
    assert rows[0]["uri"] == f"{STORE_PREFIX}demo/it's a.flac"
    assert rows[1]["uri"] == f"tar://x.flac::{STORE_PREFIX}more.tar"


def test_a_moved_store_returns_the_new_addresses_of_its_recordings(store: Store, tmp_path: Path) -> None:
    write_views(store)
    moved = Store(str(Path(store.root).rename(tmp_path / "another place")))
    expected = tracks([*inside(moved), *OUTSIDE])
    assert moved.read(TRACKS, "v").equals(expected)
    assert moved.read(TRACKS, "v", columns=["uri"]).equals(expected.select(["uri"]))
    sql = "SELECT uri, files FROM tracks ORDER BY track_id"
    assert query(moved, sql).to_pylist() == expected.select(["uri", "files"]).to_pylist()
    with duckdb.connect(moved.path(FILE), read_only=True) as client:  # no command of segue has run here since
        assert client.execute(sql).fetchall() == [
            (row["uri"], row["files"]) for row in expected.select(["uri", "files"]).to_pylist()
        ]


def test_a_copied_store_behind_a_url_returns_its_own_addresses() -> None:
    store, copy = Store("memory://bucket/store"), Store("memory://other/copy")
    row = {"stage": "ingest", "key": f"{store.url}/demo/a.wav", "uri": f"{store.url}/demo/a.wav"}
    store.write_shard(REJECTS, "v", "0", pa.Table.from_pylist([row], schema=REJECTS.schema), "k")
    where = store.shard_path(REJECTS, "v", "0")
    copy.write_bytes(where, store.read_bytes(where))
    (read,) = copy.read(REJECTS, "v").to_pylist()
    assert read["key"] == read["uri"] == f"{copy.url}/demo/a.wav"


def test_rows_of_an_earlier_release_keep_their_addresses(store: Store) -> None:
    rows = tracks(inside(store))
    path = store.path(store.shard_path(TRACKS, "v", "0"))
    pq.write_table(rows, path)
    assert store.read(TRACKS, "v").equals(rows)
    assert query(store, "SELECT uri FROM tracks ORDER BY track_id").to_pylist() == rows.select(["uri"]).to_pylist()
