"""Packed tables: the matrices of a column written one after another into a file that is mapped into memory.

The tables may be larger than memory. They are packed once, shard after shard, so that no more than one shard is in
memory at a time. A training then reads only the pages that it draws from, and the processes of one machine share them.
Lists of numbers, such as beats, are packed as matrices of one column; chords as matrices with the columns
`CHORD_COLUMNS`.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from model.conditioning.config import CHORD_QUALITIES, NO_ROOT
from model.conditioning.frame_wise import CHORD_COLUMNS
from schemas.tables import CHROMA, CLAP, HARMONY, RHYTHM, TOKENS, Table
from stages.pipeline.contract import Context

PACKED = (
    *((CHROMA, "chroma"), (CLAP, "embeddings"), (TOKENS, "codes")),
    *((RHYTHM, "beats"), (RHYTHM, "downbeats"), (HARMONY, "chords")),
)
"""The tables that are packed, each with the column that makes it large."""

MATRIX_COLUMNS = ("begin", "vectors", "width", "largest")
"""Columns that take the place of the matrices: the position of a matrix's first value in the file, its rows, its
columns, and the largest value in all matrices of its shard."""


@dataclass(frozen=True, eq=False)
class PackedTable:
    """The rows of a table, with `MATRIX_COLUMNS` in place of the packed column, and the values of that column."""

    rows: pa.Table
    values: npt.NDArray[Any]
    """[N], the values of all matrices, row by row."""

    def matrix(self, number: int) -> npt.NDArray[Any]:
        """Return the matrix [vectors, width] of a row, as a view of `values`."""
        begin, vectors, width = (self.rows.column(name)[number].as_py() for name in ("begin", "vectors", "width"))
        return self.values[begin : begin + vectors * width].reshape(vectors, width)


def pack(parts: Iterable[pa.Table], column: str, sink: BinaryIO) -> pa.Table:
    """Write the matrices of a column (lists of lists, of numbers or of chords) one after another, and return the rows
    with `MATRIX_COLUMNS` in place of that column.

    Args:
        parts: parts of one table, at least one; a part may be empty.

    Raises:
        ValueError: the lists of a row differ in length, or a chord has an unknown quality.
    """
    packed, written = [], 0
    for part in parts:
        matrices = _as_matrices(part.column(column).combine_chunks())
        vectors = pc.fill_null(pc.list_value_length(matrices), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        lengths = pc.list_value_length(matrices.flatten()).to_numpy(zero_copy_only=False).astype(np.int64)
        first = np.cumsum(vectors) - vectors
        width = np.zeros_like(vectors)
        width[vectors > 0] = lengths[first[vectors > 0]]
        row = np.repeat(np.arange(len(vectors)), vectors)
        if (lengths != width[row]).any():
            wrong_list = int(np.flatnonzero(lengths != width[row])[0])
            key, expected = part.column(0)[int(row[wrong_list])], width[row[wrong_list]]
            raise ValueError(
                f"expected {expected} values in every list of {column} of {key}, got {lengths[wrong_list]}"
            )
        values = matrices.flatten().flatten().to_numpy(zero_copy_only=False)
        largest = float(values.max()) if values.size else 0.0
        begin = written + np.cumsum(vectors * width) - vectors * width
        rows = part.drop_columns([column])
        added = (begin, vectors, width, np.full(len(vectors), largest))
        for name, numbers in zip(MATRIX_COLUMNS, added, strict=True):
            rows = rows.append_column(name, pa.array(numbers))
        packed.append(rows)
        sink.write(values.tobytes())
        written += values.size
    return pa.concat_tables(packed)


def _as_matrices(lists: pa.ListArray) -> pa.ListArray:
    """Return lists of lists of numbers. A list of numbers becomes a list of one number each, a list of chords a list of
    the chords' numbers; lists of lists stay as they are."""
    kind = lists.type.value_type
    if pa.types.is_list(kind):
        return lists
    values = lists.flatten()
    numbers = _chord_numbers(values) if pa.types.is_struct(kind) else values.to_numpy(zero_copy_only=False)[:, None]
    width = numbers.shape[1]
    rows = pa.ListArray.from_arrays(pa.array(np.arange(len(numbers) + 1, dtype=np.int32) * width), numbers.ravel())
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)), rows)


def _chord_numbers(chords: pa.StructArray) -> npt.NDArray[np.float32]:
    """Return chords as numbers, a column for each of `CHORD_COLUMNS`."""
    columns = dict(zip(chords.type.names, chords.flatten(), strict=False))
    qualities = pc.index_in(columns["quality"], value_set=pa.array(CHORD_QUALITIES))
    unknown = pc.and_(pc.is_null(qualities), pc.not_equal(columns["root"], NO_ROOT))
    if pc.any(unknown).as_py():
        got = pc.filter(columns["quality"], unknown)[0]
        raise ValueError(f"expected chords of the qualities {', '.join(CHORD_QUALITIES)}, got {got}")
    columns |= {"quality": pc.fill_null(qualities, 0)}
    numbers = np.zeros((len(chords), len(CHORD_COLUMNS)), dtype=np.float32)
    for column, name in enumerate(CHORD_COLUMNS):
        numbers[:, column] = columns[name].to_numpy(zero_copy_only=False)
    return numbers


def pack_table(context: Context, table: Table, column: str) -> None:
    """Pack a column of a table into the stage's scratch folder, shard by shard, unless that was done before.

    A table that the model does not read is packed without rows. Other packed columns of the same table are left out.
    """
    files = _packed_files(context, table, column)
    if files.rows.exists():
        return
    version = context.versions.get(table.name)
    numbers = context.store.shards(table, version) if version else []
    others = [name for packed, name in PACKED if packed == table and name != column]
    names = [name for name in table.schema.names if name not in others]
    shards = (context.store.read(table, version or "", [number], columns=names) for number in numbers)
    values, rows = (path.with_name(f"{path.name}.{os.getpid()}.inprogress") for path in (files.values, files.rows))
    with open(values, "wb") as sink:
        packed = pack(chain([table.schema.empty_table().select(names)], shards), column, sink)
    pq.write_table(packed, rows)
    os.replace(values, files.values)
    os.replace(rows, files.rows)  # the rows come last: where they exist, the values are complete


def open_packed(context: Context, table: Table, column: str) -> PackedTable:
    """Open the files that `pack_table` wrote."""
    files = _packed_files(context, table, column)
    kind = packed_kind(table.schema.field(column).type)
    values = np.memmap(files.values, kind, mode="r") if files.values.stat().st_size else np.zeros(0, kind)
    return PackedTable(pq.read_table(files.rows), values)


def packed_kind(column: pa.ListType) -> type[np.generic]:
    """Return the NumPy type of the numbers that a column is packed as."""
    kind = column.value_type.value_type if pa.types.is_list(column.value_type) else column.value_type
    dtype: type[np.generic] = np.float32 if pa.types.is_struct(kind) else kind.to_pandas_dtype()
    return dtype


@dataclass(frozen=True)
class _PackedFiles:
    values: Path
    rows: Path


def _packed_files(context: Context, table: Table, column: str) -> _PackedFiles:
    stem = context.scratch() / f"{table.name}.{column}"
    return _PackedFiles(stem.with_name(f"{stem.name}.values"), stem.with_name(f"{stem.name}.rows.parquet"))


class TrackVectors:
    """The vectors of each track in a packed table; a track without a row has none.

    Args:
        ids: ids of the tracks, in the order of their positions.
        what: name of the widths in an error message.

    Raises:
        ValueError: vectors differ in width.
    """

    def __init__(self, packed: PackedTable, ids: Sequence[str], what: str) -> None:
        vectors, widths = (packed.rows.column(name).to_numpy() for name in ("vectors", "width"))
        different = sorted(set(widths[vectors > 0].tolist()))
        if len(different) > 1:
            raise ValueError(f"expected one number of {what}, got {different}")
        self.width: int = different[0] if different else 0
        self._packed = replace(packed, rows=packed.rows.combine_chunks())
        rows = pc.index_in(pa.array(ids, pa.string()), value_set=packed.rows.column("track_id"))
        self._rows = pc.fill_null(rows, -1).to_numpy(zero_copy_only=False)
        self.present = np.array([row >= 0 and vectors[row] > 0 for row in self._rows])
        """Whether each track has vectors, [tracks]."""

    def __contains__(self, track: int) -> bool:
        return bool(self.present[track])

    def of(self, track: int) -> npt.NDArray[Any]:
        """Return the vectors [count, width] of a track, which must have some."""
        return self._packed.matrix(int(self._rows[track]))

    def value(self, track: int, column: str) -> Any:
        """Return the value of another column in the row of a track, which must have vectors."""
        return self._packed.rows.column(column)[int(self._rows[track])].as_py()
