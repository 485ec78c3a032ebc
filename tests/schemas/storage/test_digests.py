"""Digests of columns: sums over rows, which do not depend on the distribution of rows over shards."""

from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.storage.digests import add_digests, column_digests
from schemas.tables import CHECKPOINTS, CLAP, PIECES, TOKENS, TRACKS, Table

EMPTY = "0" * 32

texts = st.none() | st.text(max_size=20)
tracks = st.lists(
    st.fixed_dictionaries(
        {
            "track_id": st.text(min_size=1, max_size=70),
            "title": texts,
            "moods": st.none() | st.lists(texts, max_size=3),
            "bpm": st.none() | st.floats(),
            "split": texts,
        }
    ),
    unique_by=lambda row: row["track_id"],
    max_size=8,
)
embeddings = st.lists(
    st.fixed_dictionaries(
        {
            "track_id": st.text(min_size=1, max_size=5),
            "starts": st.none() | st.lists(st.none() | st.floats(width=32), max_size=3),
            "embeddings": st.none() | st.lists(st.none() | st.lists(st.floats(width=32), max_size=4), max_size=3),
        }
    ),
    unique_by=lambda row: row["track_id"],
    max_size=8,
)


def table_of(table: Table, rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=table.schema)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from([(TRACKS, tracks), (CLAP, embeddings)]))
def test_digests_of_shards_add_up_for_any_distribution_of_rows(data: st.DataObject, drawn: tuple) -> None:
    table, strategy = drawn
    rows = data.draw(strategy)
    whole = table_of(table, rows)
    shards: list[list[dict]] = [[], [], []]
    for row in data.draw(st.permutations(rows)):
        shards[data.draw(st.integers(0, 2))].append(row)
    parts = [table_of(table, shard) for shard in shards]
    expected = column_digests(table, whole)
    assert add_digests(column_digests(table, part) for part in parts) == expected
    assert column_digests(table, pa.concat_tables(parts)) == expected
    offset = pa.concat_tables([whole, whole]).combine_chunks().slice(whole.num_rows)
    assert column_digests(table, offset) == expected


def test_the_digest_of_a_column_depends_on_its_values_and_the_keys() -> None:
    rows = [{"track_id": name, "title": name.upper(), "bpm": 90.0, "moods": ["calm"]} for name in "abc"]

    def changed(**changes: Any) -> set[str]:
        before = column_digests(TRACKS, table_of(TRACKS, rows))
        after = column_digests(TRACKS, table_of(TRACKS, [rows[0] | changes, *rows[1:]]))
        return {name for name in before if before[name] != after[name]}

    assert changed() == set()
    assert changed(title="Another") == {"title"}
    assert changed(bpm=90.5) == {"bpm"}
    assert changed(moods=["calm", "dark"]) == {"moods"}
    assert changed(uri="elsewhere.wav") == set()  # the address is not part of a track's identity
    assert changed(track_id="d") == set(TRACKS.identity or ())
    swapped = [rows[0] | {"title": "B"}, rows[1] | {"title": "A"}, rows[2]]
    assert column_digests(TRACKS, table_of(TRACKS, swapped)) != column_digests(TRACKS, table_of(TRACKS, rows))


def test_similar_values_have_different_digests() -> None:
    def digests(table: Table, column: str, *values: Any) -> set[str]:
        key = {name: 7 if name == "seed" else "k" for name in table.key}
        return {column_digests(table, table_of(table, [key | {column: value}]))[column] for value in values}

    texts = ("", None, "null", "a", "a\0", "a\0\0\0\0\0\0\0", "a" * 8, "b" * 8, "a" * 16, "é")
    assert len(digests(TRACKS, "title", *texts)) == len(texts)
    lists = (None, [], [None], [""], ["a"], ["a", "b"], ["ab"], ["b", "a"], ["a", None], ["a", "a"])
    assert len(digests(TRACKS, "moods", *lists)) == len(lists)
    numbers = (None, 0.0, 1.0, -1.0, 5e-324)
    assert len(digests(TRACKS, "bpm", *numbers)) == len(numbers)
    codes = (None, [], [[]], [[], []], [[0]], [[0, 0]], [[0], [0]], [[None]], [None], [[1, 0]], [[0, 1]])
    assert len(digests(TOKENS, "codes", *codes)) == len(codes)
    maps = (None, [], [("a", 1.0)], [("a", None)], [("b", 1.0)], [("a", 1.0), ("b", 1.0)], [("b", 1.0), ("a", 1.0)])
    assert len(digests(CHECKPOINTS, "metrics", *maps)) == len(maps)


def test_digests_are_the_same_in_every_process_and_release() -> None:
    row = {"track_id": "a", "title": "Blue", "moods": ["calm"], "bpm": 92.0}
    digests = column_digests(TRACKS, table_of(TRACKS, [row]))
    assert digests["title"] == "37b7312df9d1d9a32f486b863fd9a109"
    assert digests["moods"] == "4f4bbaccee7efa6d0ff46ad3a65615ff"
    assert digests["bpm"] == "7f5f7c1bc7880c07d1b86037b6c73d48"
    codes = {"track_id": "a", "codes": [[1, 2], [3, 4]], "frames": 2}
    assert column_digests(TOKENS, table_of(TOKENS, [codes]))["codes"] == "990ca852d51b2b43198d03f25794fbc2"


def test_the_digests_of_no_rows_are_zero() -> None:
    empty = column_digests(TRACKS, TRACKS.schema.empty_table())
    assert set(empty.values()) == {EMPTY}
    one = column_digests(PIECES, table_of(PIECES, [{"piece_id": "a", "seconds": 1.0}]))
    assert add_digests([one, column_digests(PIECES, PIECES.schema.empty_table())]) == one
    assert add_digests([]) == {}
