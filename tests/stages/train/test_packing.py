"""Matrices packed into a file: every one is restored, shard by shard, and an incomplete pack is made again."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies

from model.conditioning.config import CHORD_QUALITIES
from schemas import Settings, Store
from schemas.tables import CHROMA, CLAP, HARMONY, RHYTHM
from schemas.weights import WeightsLibrary
from stages.pipeline.contract import Context
from stages.train.packing import PackedTable, open_packed, pack, pack_table

SCHEMA = pa.schema([("track_id", pa.string()), ("codes", pa.list_(pa.list_(pa.uint16())))])
MATRICES = strategies.tuples(strategies.integers(0, 3), strategies.integers(1, 4))


@settings(deadline=None)  # the first example waits for Arrow to load
@given(shapes=strategies.lists(MATRICES, max_size=6), cut=strategies.integers(0, 6), none=strategies.booleans())
def test_every_matrix_is_restored_from_any_shards(shapes: list[tuple[int, int]], cut: int, none: bool) -> None:
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


def test_a_row_with_lists_of_different_lengths_is_named() -> None:
    rows = [{"track_id": "a", "codes": []}, {"track_id": "b", "codes": [[1, 2], [3]]}]
    with pytest.raises(ValueError, match="expected 2 values in every list of codes of b, got 1"):
        pack([pa.Table.from_pylist(rows, schema=SCHEMA)], "codes", io.BytesIO())


def _context(folder: Path) -> Context:
    store = Store(str(folder))
    versions = {"chroma": "v", "clap": "v", "rhythm": "v", "harmony": "v"}
    return Context(store, Settings(store=store.url), "run", "train", "f", versions, WeightsLibrary(store), identity="i")


def test_a_table_is_packed_once_from_all_shards_and_again_after_an_interrupted_run(tmp_path: Path) -> None:
    context = _context(tmp_path)
    melodies = np.random.default_rng(0).random((3, 5, 12)).astype(np.float32)
    for number, melody in enumerate(melodies):
        row = {"track_id": str(number), "frame_rate": 7.8, "chroma": melody.tolist()}
        context.store.write_shard(CHROMA, "v", str(number), pa.Table.from_pylist([row], schema=CHROMA.schema), "key")
    (context.scratch() / "chroma.chroma.values").write_bytes(
        b"half"
    )  # what a killed run leaves: values without their rows
    pack_table(context, CHROMA, "chroma")
    packed = open_packed(context, CHROMA, "chroma")
    assert [packed.matrix(row).tolist() for row in range(3)] == melodies.tolist()
    assert packed.rows.column_names[:2] == ["track_id", "frame_rate"]
    with pytest.raises(ValueError, match="read-only"):
        packed.matrix(0)[0, 0] = 1.0
    context.store.remove("chroma")
    pack_table(context, CHROMA, "chroma")  # done before: the table is not read again
    assert open_packed(context, CHROMA, "chroma").rows.num_rows == 3
    assert sorted(path.name for path in context.scratch().iterdir()) == [
        "chroma.chroma.rows.parquet",
        "chroma.chroma.values",
    ]


def test_an_empty_table_is_packed_as_an_empty_one(tmp_path: Path) -> None:
    context = _context(tmp_path)
    pack_table(context, CLAP, "embeddings")
    packed = open_packed(context, CLAP, "embeddings")
    assert (packed.rows.num_rows, packed.values.size) == (0, 0)


def test_beats_and_chords_are_packed_as_numbers(tmp_path: Path) -> None:
    context = _context(tmp_path)
    minor = CHORD_QUALITIES.index("min7")
    chord = {"start": 0.0, "end": 1.5, "root": 9, "quality": "min7", "bass": 4, "confidence": 0.5}
    nothing = {"start": 1.5, "end": 2.0, "root": -1, "quality": "N", "bass": -1, "confidence": 0.5}
    rhythm = [
        {"track_id": "a", "beats": [0.5, 1.0, 1.5], "downbeats": [0.5], "beats_per_bar": 4},
        {"track_id": "b", "beats": [], "downbeats": []},
    ]
    harmony = [{"track_id": "a", "chords": [chord, nothing]}, {"track_id": "b", "chords": None}]
    for table, rows in ((RHYTHM, rhythm), (HARMONY, harmony)):
        context.store.write_shard(table, "v", "0", pa.Table.from_pylist(rows, schema=table.schema), "key")
    found = {}
    for table, column in ((RHYTHM, "beats"), (RHYTHM, "downbeats"), (HARMONY, "chords")):
        pack_table(context, table, column)
        packed = open_packed(context, table, column)
        assert "beats" not in packed.rows.column_names
        found[column] = [packed.matrix(row).tolist() for row in range(2)]
    assert found["beats"] == [[[0.5], [1.0], [1.5]], []]
    assert found["downbeats"] == [[[0.5]], []]
    assert found["chords"] == [[[0.0, 1.5, 9, minor, 4], [1.5, 2.0, -1, 0, -1]], []]


def test_a_chord_of_an_unknown_quality_is_refused() -> None:
    chord = {"start": 0.0, "end": 1.0, "root": 0, "quality": "mu", "bass": 0}
    table = pa.Table.from_pylist([{"track_id": "a", "chords": [chord]}], schema=HARMONY.schema)
    with pytest.raises(ValueError, match=r"expected chords of the qualities maj, min, .*, got mu"):
        pack([table], "chords", io.BytesIO())
