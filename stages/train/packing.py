"""Matrices of many rows, one after another in a file that is mapped into memory.

A catalog of 10,000 hours has 14 GB of codes at 50 frames of 4 codebooks a second. They are written once, shard after
shard, so that no more than one shard is held at a time; a training then reads the pages that it draws from, and the
processes of one machine share them.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.tables import Table
from stages.pipeline.contract import Context

PLACES = ("begin", "vectors", "width", "largest")
"""Columns that stand for the matrices: where one's first value lies, its rows and columns, and the largest value in any
of its shard."""


@dataclass(frozen=True, eq=False)
class Packed:
    """The rows of a table, with `PLACES` for the column that was packed, and the values of that column."""

    rows: pa.Table
    values: np.ndarray
    """[N], all matrices row by row."""

    def matrix(self, number: int) -> np.ndarray:
        """The matrix [vectors, width] of a row; it is not copied."""
        begin, vectors, width = (self.rows.column(name)[number].as_py() for name in ("begin", "vectors", "width"))
        return self.values[begin : begin + vectors * width].reshape(vectors, width)


def pack(parts: Iterable[pa.Table], column: str, sink: BinaryIO) -> pa.Table:
    """Write the matrices of a column (lists of lists) one after another, and give the rows with `PLACES` in its stead.

    Args:
        parts: of a table; there is at least one, which may be empty.

    Raises:
        ValueError: the lists of one row are not of one length.
    """
    found, written = [], 0
    for part in parts:
        matrices = part.column(column).combine_chunks()
        vectors = pc.fill_null(pc.list_value_length(matrices), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        lengths = pc.list_value_length(matrices.flatten()).to_numpy(zero_copy_only=False).astype(np.int64)
        first = np.cumsum(vectors) - vectors
        width = np.zeros_like(vectors)
        width[vectors > 0] = lengths[first[vectors > 0]]
        row = np.repeat(np.arange(len(vectors)), vectors)
        if (lengths != width[row]).any():
            odd = int(np.flatnonzero(lengths != width[row])[0])
            key, expected = part.column(0)[int(row[odd])], width[row[odd]]
            raise ValueError(f"expected {expected} values in every list of {column} of {key}, got {lengths[odd]}")
        values = matrices.flatten().flatten().to_numpy(zero_copy_only=False)
        largest = float(values.max()) if values.size else 0.0
        begin = written + np.cumsum(vectors * width) - vectors * width
        places = (begin, vectors, width, np.full(len(vectors), largest))
        rows = part.drop_columns([column])
        for name, place in zip(PLACES, places, strict=True):
            rows = rows.append_column(name, pa.array(place))
        found.append(rows)
        sink.write(values.tobytes())
        written += values.size
    return pa.concat_tables(found)


def pack_table(context: Context, table: Table, column: str) -> None:
    """Pack a table that the stage reads into its scratch folder, shard by shard, unless that was done before."""
    values, rows = _places(context, table)
    if rows.exists():
        return
    version = context.versions[table.name]
    shards = (context.store.read(table, version, [shard]) for shard in context.store.shards(table, version))
    written = [path.with_name(f"{path.name}.{os.getpid()}.inprogress") for path in (values, rows)]
    with open(written[0], "wb") as sink:
        found = pack(chain([context.store.read(table, version, [])], shards), column, sink)
    pq.write_table(found, written[1])
    os.replace(written[0], values)
    os.replace(written[1], rows)  # last: where the rows are, the values are whole


def open_packed(context: Context, table: Table, column: str) -> Packed:
    """What `pack_table` wrote."""
    values, rows = _places(context, table)
    kind = table.schema.field(column).type.value_type.value_type.to_pandas_dtype()
    return Packed(
        pq.read_table(rows), np.memmap(values, kind, mode="r") if values.stat().st_size else np.zeros(0, kind)
    )


def _places(context: Context, table: Table) -> tuple[Path, Path]:
    """The files of a table's values and of its rows."""
    return context.scratch() / f"{table.name}.values", context.scratch() / f"{table.name}.rows.parquet"
