"""Matrices packed into a file: every one comes back, shard by shard, and a pack cut short is made again."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies

from schemas import Settings, Store
from schemas.tables import CHROMA, CLAP
from schemas.weights import WeightsLibrary
from stages.pipeline.contract import Context
from stages.train.corpus import PackedTable, open_packed, pack, pack_table

SCHEMA = pa.schema([("track_id", pa.string()), ("codes", pa.list_(pa.list_(pa.uint16())))])
MATRICES = strategies.tuples(strategies.integers(0, 3), strategies.integers(1, 4))


@settings(deadline=None)  # the first example waits for Arrow to load
@given(shapes=strategies.lists(MATRICES, max_size=6), cut=strategies.integers(0, 6), none=strategies.booleans())
def test_every_matrix_comes_back_whatever_the_shards(shapes: list[tuple[int, int]], cut: int, none: bool) -> None:
    numbers = np.random.default_rng([len(shapes), cut])
    given_ = [numbers.integers(0, 2**16, shape, dtype=np.uint16) for shape in shapes]
    rows = [{"track_id": str(row), "codes": matrix.tolist()} for row, matrix in enumerate(given_)]
    if none and rows:
        rows[0]["codes"], given_[0] = None, np.zeros((0, 0), np.uint16)
    parts = [pa.Table.from_pylist(part, schema=SCHEMA) for part in (rows[:cut], rows[cut:])]
    values = io.BytesIO()
    packed = PackedTable(pack(parts, "codes", values), np.frombuffer(values.getvalue(), np.uint16))
    assert packed.rows.column("track_id").to_pylist() == [row["track_id"] for row in rows]
    for row, matrix in enumerate(given_):
        found = packed.matrix(row)
        assert found.tolist() == matrix.tolist()
        assert packed.rows.column("largest")[row].as_py() >= (matrix.max() if matrix.size else 0)


def test_a_row_whose_lists_differ_in_length_is_named() -> None:
    rows = [{"track_id": "a", "codes": []}, {"track_id": "b", "codes": [[1, 2], [3]]}]
    with pytest.raises(ValueError, match="expected 2 values in every list of codes of b, got 1"):
        pack([pa.Table.from_pylist(rows, schema=SCHEMA)], "codes", io.BytesIO())


def _context(folder: Path) -> Context:
    store = Store(str(folder))
    versions = {"chroma": "v", "clap": "v"}
    return Context(store, Settings(store=store.url), "run", "train", "f", versions, WeightsLibrary(store), identity="i")


def test_a_table_is_packed_once_from_all_of_its_shards_and_again_after_a_run_was_cut_short(tmp_path: Path) -> None:
    context = _context(tmp_path)
    melodies = np.random.default_rng(0).random((3, 5, 12)).astype(np.float32)
    for number, melody in enumerate(melodies):
        row = {"track_id": str(number), "frame_rate": 7.8, "chroma": melody.tolist()}
        context.store.write_shard(CHROMA, "v", str(number), pa.Table.from_pylist([row], schema=CHROMA.schema), "key")
    (context.scratch() / "chroma.values").write_bytes(b"half")  # what a killed run leaves: values without their rows
    pack_table(context, CHROMA, "chroma")
    packed = open_packed(context, CHROMA, "chroma")
    assert [packed.matrix(row).tolist() for row in range(3)] == melodies.tolist()
    assert packed.rows.column_names[:2] == ["track_id", "frame_rate"]
    with pytest.raises(ValueError, match="read-only"):
        packed.matrix(0)[0, 0] = 1.0
    context.store.remove("chroma")
    pack_table(context, CHROMA, "chroma")  # done before: the table is not read again
    assert open_packed(context, CHROMA, "chroma").rows.num_rows == 3
    assert sorted(path.name for path in context.scratch().iterdir()) == ["chroma.rows.parquet", "chroma.values"]


def test_a_table_without_a_row_is_packed_as_one(tmp_path: Path) -> None:
    context = _context(tmp_path)
    pack_table(context, CLAP, "embeddings")
    packed = open_packed(context, CLAP, "embeddings")
    assert (packed.rows.num_rows, packed.values.size) == (0, 0)
