import errno
import os
import random
import re
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import Store
from schemas.storage.digests import column_digests
from schemas.tables import CHECKPOINTS, CHROMA, TABLES, TOKENS, TRACKS


def tokens(*names: str, frames: int = 3) -> pa.Table:
    codes = np.arange(2 * frames, dtype=np.uint16).reshape(2, frames)
    rows = [{"track_id": name, "frames": frames, "codes": list(codes)} for name in names]
    return pa.Table.from_pylist(rows, schema=TOKENS.schema)


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    url = str(tmp_path / "store") if request.param == "local" else f"memory://{tmp_path.name}-{os.getpid()}"
    return Store(url)


def test_rows_are_read_back_as_written_and_sorted_by_key(store):
    store.write_shard(TOKENS, "v1", "0", tokens("b", "a"), input_key="k")
    rows = store.read(TOKENS, "v1").to_pylist()
    assert [row["track_id"] for row in rows] == ["a", "b"]
    assert rows[0]["codes"] == [[0, 1, 2], [3, 4, 5]]


def test_a_footer_contains_the_input_key_and_the_numbers_of_rows_and_refusals(store):
    store.write_shard(TOKENS, "v1", "0", tokens("a", "b"), input_key="made-from", refused=3)
    footer = store.footer(TOKENS, "v1", "0")
    assert (footer.input_key, footer.rows, footer.refused) == ("made-from", 2, 3)
    assert store.footer(TOKENS, "v1", "1") is None


def test_a_footer_read_with_its_rows_equals_one_read_alone(store):
    store.write_shard(TOKENS, "v1", "0", tokens("a", "b"), input_key="made-from", refused=3)
    alone = Store(store.url).footer(TOKENS, "v1", "0")
    store.read(TOKENS, "v1", columns=["track_id"])
    assert store.footer(TOKENS, "v1", "0") == alone
    store.write_shard(TOKENS, "v1", "0", tokens("c"), input_key="made again")
    assert store.footer(TOKENS, "v1", "0").input_key == "made again"


def test_a_shard_is_replaced_as_a_whole(store):
    store.write_shard(TOKENS, "v1", "0", tokens("a", "b"), input_key="1")
    store.write_shard(TOKENS, "v1", "0", tokens("c"), input_key="2")
    assert store.read(TOKENS, "v1").column("track_id").to_pylist() == ["c"]


def test_an_absent_folder_is_recognised_by_the_names_beside_it_without_their_details(store, monkeypatch):
    store.write_bytes("models/there", b"x")
    looked_at, list_folder = [], store.filesystem.ls

    def ls(path, detail=False):
        looked_at.extend([path] if detail else [])
        return list_folder(path, detail=detail)

    monkeypatch.setattr(store.filesystem, "ls", ls)
    assert store.files("taken_down") == []
    assert store.folders("models/gone") == []
    assert looked_at == [f"{store.root}/taken_down", f"{store.root}/models/gone"]


def test_shards_are_listed_in_numeric_order(store):
    for shard in ("10", "9", "0"):
        store.write_shard(TOKENS, "v1", shard, tokens(shard), input_key="k")
    assert store.shards(TOKENS, "v1") == ["0", "9", "10"]
    assert store.versions(TOKENS) == ["v1"]


def test_checking_whether_a_store_is_writable_leaves_only_its_identity(store):
    store.check_writable()
    assert store.filesystem.find(store.root) == [f"{store.root}/segue-store.json"]


def test_a_store_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"expected a store that can be written, got .*file/store"):
        Store(str(tmp_path / "file" / "store")).check_writable()


def test_a_store_on_a_read_only_disk_is_reported_by_its_own_path(tmp_path, monkeypatch):
    store = Store(str(tmp_path))

    def refuse(path: str, data: bytes) -> None:
        raise OSError(errno.EROFS, "Read-only file system", f"{path}.inprogress")

    monkeypatch.setattr("schemas.storage.file_store.replace_file", refuse)
    with pytest.raises(ValueError, match=f"got {re.escape(store.url)}: Read-only file system$"):
        store.check_writable()


def test_a_store_has_one_path_however_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "elsewhere" / "here").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "here")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert Store("../store").url == Store(str(tmp_path / "store")).url
    assert Store(f"{tmp_path}/link/../store").root == str(tmp_path / "elsewhere" / "store")  # as the system opens it


@pytest.mark.parametrize("url", ["s4://bucket/store", "gs://bucket/store"])
def test_a_url_of_an_unsupported_protocol_is_named(url):
    with pytest.raises(ValueError, match=f"opened as the store, got '{url}': "):
        Store(url)


def test_a_damaged_shard_is_named(store):
    store.write_bytes(store.shard_path(TOKENS, "v1", "0"), b"half of a shar")
    for read in (lambda: store.read(TOKENS, "v1"), lambda: store.footer(TOKENS, "v1", "0")):
        with pytest.raises(ValueError, match=r"expected a Parquet shard at .*version=v1/shard=0\.parquet"):
            read()


def test_a_missing_table_has_no_rows_and_all_its_columns(store):
    rows = store.read(TRACKS, "none")
    assert rows.num_rows == 0
    assert rows.schema.names == TRACKS.schema.names
    assert store.shards(TRACKS, "none") == []


def test_duplicate_keys_and_wrong_columns_are_refused(store):
    with pytest.raises(ValueError, match=r"each key of tokens once.*\('a',\) twice"):
        store.write_shard(TOKENS, "v1", "0", tokens("a", "a"), input_key="k")
    with pytest.raises(ValueError, match="expected the columns"):
        store.write_shard(CHROMA, "v1", "0", tokens("a"), input_key="k")
    assert store.shards(TOKENS, "v1") == []


@pytest.mark.parametrize("place", ["../outside", "a/../../b", "/etc/passwd", "", "a\\..\\b", "a\0b"])
def test_a_path_outside_the_store_is_refused(store, place):
    with pytest.raises(ValueError, match="inside the store"):
        store.write_bytes(place, b"")


def test_a_folder_appears_as_a_whole_or_not_at_all(store):
    def spoil():
        with store.new_folder("models/one") as folder:
            (folder / "half").write_text("written")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        spoil()
    assert not store.exists("models/one")
    for content in ("first", "second"):
        with store.new_folder("models/one") as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / "file").write_text(content)
        assert store.read_bytes("models/one/sub/file").decode() == content
    assert (store.local("models/one") / "sub" / "file").read_text() in ("first", "second")


def test_a_folder_fetched_by_two_at_once_is_complete_for_both_and_leaves_no_other_files(tmp_path, monkeypatch):
    store, other = (Store(f"memory://{tmp_path.name}-{os.getpid()}") for _ in range(2))
    with store.new_folder("models/one") as folder:
        (folder / "weights").write_text("numbers")
    get = store.filesystem.get

    def get_while_another_does(*words, **options):
        monkeypatch.setattr(type(store.filesystem), "get", staticmethod(get))
        other.local("models/one")
        get(*words, **options)

    monkeypatch.setattr(type(store.filesystem), "get", staticmethod(get_while_another_does))
    assert (store.local("models/one") / "weights").read_text() == "numbers"
    assert [path.name for path in store.local("models/one").parent.iterdir()] == [store.local("models/one").name]


def test_a_file_of_an_earlier_release_without_a_column_is_read_with_nulls(tmp_path):
    store = Store(str(tmp_path))
    store.write_shard(TOKENS, "v1", "0", tokens("a"), input_key="k")
    path = store.path(store.shard_path(TOKENS, "v1", "0"))
    older = pa.parquet.read_table(path, partitioning=None).drop_columns(["cardinality"])
    pa.parquet.write_table(older, path)
    assert store.read(TOKENS, "v1").column("cardinality").to_pylist() == [None]


def test_a_file_that_is_not_parquet_is_reported_as_damaged(tmp_path):
    store = Store(str(tmp_path))
    store.write_bytes("tokens/version=v1/shard=0.parquet", b"not parquet")
    with pytest.raises(ValueError, match="is damaged"):
        store.footer(TOKENS, "v1", "0")


def test_remains_of_a_killed_run_are_removed_when_they_are_old(tmp_path):
    store = Store(str(tmp_path))
    store.write_shard(TOKENS, "v1", "0", tokens("a"), input_key="k")
    folder = tmp_path / "tokens" / "version=v1"
    young, old = folder / ".x.1.inprogress", folder / ".x.2.inprogress"
    young.touch()
    old.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    store.sweep("tokens/version=v1")
    assert young.exists()
    assert not old.exists()
    assert store.shards(TOKENS, "v1") == ["0"]


WRITE_FOR_EVER = """
import sys
from schemas import Store
from schemas.tables import TOKENS
store = Store(sys.argv[1])
rows = store.read(TOKENS, "v1")
turn = 0
while True:
    turn += 1
    store.write_shard(TOKENS, "v1", "0", rows, input_key=f"{sys.argv[2]}-{turn}")
"""


def test_a_writer_killed_at_any_moment_leaves_a_complete_shard(tmp_path):
    store = Store(str(tmp_path))
    store.write_shard(TOKENS, "v1", "0", tokens("a", "b", frames=50_000), input_key="start")
    expected = store.footer(TOKENS, "v1", "0").content
    seed = random.Random(0)
    for turn in range(6):
        writer = subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path), str(turn)])
        while not store.footer(TOKENS, "v1", "0").input_key.startswith(f"{turn}-"):
            assert writer.poll() is None
            time.sleep(0.005)
        time.sleep(seed.random() * 0.05)
        writer.kill()
        writer.wait()
        assert store.footer(TOKENS, "v1", "0").content == expected
        assert store.read(TOKENS, "v1").num_rows == 2


def test_shards_without_stored_digests_have_the_same_column_digests(tmp_path):
    store = Store(str(tmp_path))
    store.write_shard(TOKENS, "v1", "0", tokens("a", "b"), input_key="k")
    digests = store.column_digests(TOKENS, "v1", "0")
    assert digests == store.footer(TOKENS, "v1", "0").columns == column_digests(TOKENS, tokens("b", "a"))
    path = tmp_path / store.shard_path(TOKENS, "v1", "0")
    kept = {key: value for key, value in pq.read_metadata(path).metadata.items() if key != b"columns"}
    pq.write_table(pq.read_table(path).replace_schema_metadata(kept), path)
    assert store.footer(TOKENS, "v1", "0").columns == {}
    assert store.column_digests(TOKENS, "v1", "0") == digests
    assert store.column_digests(TOKENS, "v1", "1") == {}


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_every_table_can_be_written_and_read_with_nulls_in_every_column(table, tmp_path):
    store = Store(str(tmp_path))
    rows = pa.table({field.name: pa.nulls(1, field.type) for field in table.schema}, schema=table.schema)
    store.write_shard(table, "v", "0", rows, input_key="k")
    assert store.read(table, "v").equals(rows)
    assert store.read_all(table).equals(rows)


texts = st.none() | st.text(max_size=5)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "checkpoint_id": texts,
                "kind": texts,
                "digest": texts,
                "metrics": st.none() | st.dictionaries(st.text(max_size=3), st.floats(allow_nan=False), max_size=3),
            }
        ),
        min_size=1,
        max_size=5,
    )
)
def test_column_digests_depend_on_the_values_and_not_on_their_memory_layout(values):
    rows = [row | {"metrics": None if row["metrics"] is None else list(row["metrics"].items())} for row in values]
    table = pa.Table.from_pylist(rows, schema=CHECKPOINTS.schema)
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    offset = pa.concat_tables([table, table]).combine_chunks().slice(table.num_rows)
    assert column_digests(CHECKPOINTS, chunked) == column_digests(CHECKPOINTS, table)
    assert column_digests(CHECKPOINTS, offset) == column_digests(CHECKPOINTS, table)
    other = [rows[0] | {"digest": "other than any"}, *rows[1:]]
    changed = pa.Table.from_pylist(other, schema=CHECKPOINTS.schema)
    assert column_digests(CHECKPOINTS, changed) != column_digests(CHECKPOINTS, table)


def test_the_size_of_a_file_is_given_by_column(store):
    def taken(frames: int) -> dict[str, int]:
        store.write_shard(TOKENS, "v1", "0", tokens("a", "b", frames=frames), input_key="k")
        return store.column_bytes(store.shard_path(TOKENS, "v1", "0"))

    short, long = taken(10), taken(10_000)
    assert list(short) == TOKENS.schema.names
    assert sum(long.values()) < store.size(store.shard_path(TOKENS, "v1", "0"))
    assert long["track_id"] == short["track_id"]
    assert long["codes"] > 10_000 > short["codes"]
