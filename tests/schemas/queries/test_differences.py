"""Which rows were added, removed and changed between two publications or versions of a table."""

import pyarrow as pa
import pytest

from schemas import Store
from schemas.queries.differences import ChangedRow, compare, find_content, last_contents
from schemas.storage.drafts import Drafts
from schemas.storage.publications import Publications
from schemas.tables import CLIPS, TOKENS, Table

FIRST, SECOND = "aaaa000000000000", "bbbb000000000000"


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    return Store(str(tmp_path / "store") if request.param == "local" else f"memory://{tmp_path.name}-differences")


def publish(store: Store, version: str, shards: dict[str, list[dict]], table: Table = TOKENS) -> None:
    drafts = Drafts(store, table, version)
    for shard, rows in shards.items():
        drafts.write(shard, pa.Table.from_pylist(rows, schema=table.schema), "k")
    drafts.publish()
    Publications(store).publish("run", "tokenize", {table.name: (version, drafts.manifest())})


def track(name: str, *codes: int) -> dict:
    return {"track_id": name, "frames": len(codes), "codes": [list(codes)]}


def test_added_removed_and_changed_rows_are_listed_with_keys_and_columns(store):
    publish(store, FIRST, {"0": [track("a", 1), track("b", 2)], "1": [track("c", 3)]})
    publish(store, FIRST, {"0": [track("a", 1), track("b", 2, 2)], "1": [track("d", 3)]})
    before, after = last_contents(store, TOKENS)
    assert (before.publication, after.publication) == (1, 2)
    difference = compare(store, TOKENS, before, after)
    assert difference.rows == [
        ChangedRow(("b",), "changed", ("frames", "codes")),
        ChangedRow(("c",), "out"),
        ChangedRow(("d",), "in"),
    ]
    assert difference.same == 1
    assert [difference.count(change) for change in ("in", "out", "changed")] == [1, 1, 1]


def test_a_shard_with_the_same_file_is_not_read(store):
    publish(store, FIRST, {"0": [track("a", 1)], "1": [track("c", 3)]})
    publish(store, FIRST, {"0": [track("a", 2)]})
    before, after = last_contents(store, TOKENS)
    store.remove_shard(TOKENS, FIRST, "1")
    difference = compare(store, TOKENS, before, after)
    assert (difference.count("changed"), difference.same) == (1, 1)


def test_the_same_sound_at_another_path_is_not_a_change(store):
    rows = [{"request_id": "r", "take": 1, "path": f"audio/{version}", "sha256": "s"} for version in "12"]
    publish(store, FIRST, {"0": rows[:1]}, CLIPS)
    publish(store, SECOND, {"0": rows[1:]}, CLIPS)
    assert compare(store, CLIPS, *last_contents(store, CLIPS)).rows == []


def test_a_content_is_found_by_publication_number_and_by_the_first_digits_of_a_version(store):
    publish(store, FIRST, {"0": [track("a", 1)]})
    publish(store, SECOND, {"0": [track("a", 2)]})
    assert find_content(store, TOKENS, "1").version == FIRST
    assert find_content(store, TOKENS, "bbbb") == find_content(store, TOKENS, SECOND)
    assert compare(store, TOKENS, find_content(store, TOKENS, "1"), find_content(store, TOKENS, "bbbb")).rows
    for name in ("3", "cccc", "a version", "-1"):
        with pytest.raises(ValueError, match=r"the last: 2, 1.*aaaa0000, bbbb0000"):
            find_content(store, TOKENS, name)


def test_comparing_needs_two_publications(store):
    publish(store, FIRST, {"0": [track("a", 1)]})
    with pytest.raises(ValueError, match="expected two publications of tokens to compare, got 1"):
        last_contents(store, TOKENS)
