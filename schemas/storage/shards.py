"""Shards as files: rows of a table as Parquet, with a footer that says what they were made from and what they hold."""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.identity import keys_digest
from schemas.storage.digests import column_digests, digest_of_columns
from schemas.tables import Table

FOOTER_BYTES = 2**16
"""Read of a shard's end at first: a footer is smaller, but for that of a table with very many row groups."""

SHARD_NAME = re.compile(r"shard=([0-9A-Za-z_-]+)\.parquet")
"""A file of any other name is not the store's: a copy that a synchronising program made, a file manager's shadow."""


@dataclass(frozen=True)
class Footer:
    """What a shard's Parquet footer says of it, read without reading a row."""

    input_key: str
    """Identity of the keys that the shard was made from."""
    output_key: str
    """Identity of the keys of its own rows."""
    content: str
    """Digest of its rows (of the table's `identity` columns)."""
    columns: Mapping[str, str]
    """The digest of each of those columns (`schemas.storage.digests`), which add up over shards; none in files of
    earlier releases."""
    rows: int
    refused: int
    """Items that the stage refused while it made this shard."""
    passing: int = 0
    """Those of them that the next run tries again."""
    data_digest: str = ""
    """Digest of the file's first `data_bytes` bytes, which hold its rows; empty in files of earlier releases."""
    data_bytes: int = 0


def sort_shards(shards: Iterable[str]) -> list[str]:
    """Sort the names of shards: numbers in their order, then others by name."""
    return sorted(shards, key=lambda shard: (0, int(shard), "") if shard.isdecimal() else (1, 0, shard))


def encode_shard(table: Table, rows: pa.Table, input_key: str, where: str, refused: int = 0, passing: int = 0) -> bytes:
    """Return a shard as the bytes of a Parquet file: its rows sorted by key, its pages with checksums, and in its
    footer what `Footer` holds.

    Args:
        where: the place that it is for, to be named in an error.

    Raises:
        ValueError: the rows do not have the table's schema, or a key stands twice.
    """
    if rows.schema.names != table.schema.names:
        raise ValueError(f"expected the columns {table.schema.names} for {table.name}, got {rows.schema.names}")
    rows = rows.cast(table.schema).sort_by([(name, "ascending") for name in table.key]).combine_chunks()
    rows = rows.replace_schema_metadata(None)
    keys = row_keys(rows, table.key)
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"expected each key of {table.name} once, got {twice} twice in {where}")
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, rows.schema, compression="zstd", write_page_checksum=True) as writer:
        writer.write_table(rows)
        data = buffer.getvalue()
        columns = column_digests(table, rows)
        metadata = {
            "input_key": input_key,
            "output_key": keys_digest(output_keys(table, rows)),
            "content": digest_of_columns(columns),
            "columns": json.dumps(columns),
            "refused": str(refused),
            "passing": str(passing),
            "data_digest": data_digest(data),
            "data_bytes": str(len(data)),
        }
        writer.add_key_value_metadata(metadata)
    return buffer.getvalue()


def data_digest(data: bytes) -> str:
    """Return the digest of the bytes that hold a shard's rows."""
    return hashlib.sha256(data).hexdigest()[:16]


def read_tail(filesystem: fsspec.AbstractFileSystem, path: str) -> bytes:
    """Return the end of a file, its whole Parquet footer in it if it has one."""
    tail = bytes(filesystem.cat_file(path, start=-FOOTER_BYTES))
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if tail[-4:] == b"PAR1" and length > len(tail):
        tail = bytes(filesystem.cat_file(path, start=-length))
    return tail


def parse_footer(tail: bytes, path: str) -> Footer:
    """Return the footer at the end of a shard.

    Raises:
        ValueError: the bytes do not end as a shard does.
    """
    metadata = _metadata(tail, path)
    values = metadata.metadata or {}
    if b"input_key" not in values:
        raise ValueError(f"expected a shard with an input_key in its footer, got {path}, which something else wrote")
    return _footer_of(values, metadata.num_rows)


def column_bytes(tail: bytes, path: str) -> dict[str, int]:
    """Return how many bytes of a shard each of its columns takes, by the footer at its end.

    Raises:
        ValueError: the bytes do not end as a shard does.
    """
    metadata = _metadata(tail, path)
    taken: dict[str, int] = {}
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            name = column.path_in_schema.split(".")[0]
            taken[name] = taken.get(name, 0) + column.total_compressed_size
    return taken


def _metadata(tail: bytes, path: str) -> pq.FileMetaData:
    length = int.from_bytes(tail[-8:-4], "little") + 8
    try:
        return pq.read_metadata(pa.BufferReader(b"PAR1" + tail[-length:]))
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


THREADED_BYTES = 2**20
"""From this size on a shard's columns are decoded by several threads, which take longer to wake than a small one."""


def parse_rows(data: bytes, names: Sequence[str], path: str) -> pa.Table:
    """Return those of the columns `names` that a Parquet file has, with its footer in the schema's metadata.

    Args:
        names: columns; `files.uri` is the field `uri` of a list of records, of which no other is read then.

    Raises:
        ValueError: the bytes are no Parquet file, or a damaged one.
    """
    # A list's items are called `element` in Parquet. Names that the file lacks are passed over.
    paths = [name.replace(".", ".list.element.") for name in names]
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        return file.read(columns=paths, use_threads=len(data) >= THREADED_BYTES)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def read_columns(filesystem: fsspec.AbstractFileSystem, path: str, names: Sequence[str]) -> pa.Table:
    """Return those of the columns `names` that a Parquet file has, fetching little else of it: for the short columns
    of tables that also hold long ones.

    Raises:
        ValueError: it is no Parquet file, or a damaged one.
        OSError: it could not be read.
    """
    with filesystem.open(path, "rb") as opened:
        try:
            file = pq.ParquetFile(opened, page_checksum_verification=True)
            known = set(file.schema_arrow.names)
            return file.read(columns=[name for name in names if name in known])
        except pa.ArrowException as error:
            raise _unreadable(path, error) from error


Rows: TypeAlias = pa.Table | Sequence[Mapping[str, Any]]
"""Rows of a table as it is stored, or as they are planned: making Arrow of the latter would load pandas, which takes
longer than a plan."""


def column_values(rows: Rows, name: str) -> list[Any]:
    """Return the values of a column."""
    if isinstance(rows, pa.Table):
        values: list[Any] = rows.column(name).to_pylist()
        return values
    return [row[name] for row in rows]


def row_values(rows: Rows, names: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return some values of every row."""
    return list(zip(*(column_values(rows, name) for name in names), strict=True))


def row_keys(rows: Rows, key: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the key of every row as a tuple of text."""
    return list(zip(*([str(value) for value in column_values(rows, name)] for name in key), strict=True))


def distinct(table: Table, rows: Iterable[pa.Table]) -> pa.Table:
    """Return rows put together, each key once: that of the last. They need not have all columns."""
    parts = list(rows)
    combined = pa.concat_tables(parts) if parts else pa.Table.from_batches([], table.schema)
    last = {key: number for number, key in enumerate(row_keys(combined, table.key))}
    if len(last) == combined.num_rows:  # nearly always; and `take` loads all of Arrow's functions
        return combined
    return combined.take(pa.array(sorted(last.values()), pa.int64()))


def output_keys(table: Table, rows: Rows) -> list[tuple[str, ...]]:
    """Return what a stage that reads the table makes its rows from: the key of every row, and, where several are made
    from one, how many."""
    return row_keys(rows, (*table.key, *([table.copies] if table.copies else [])))


def footer_of_rows(rows: pa.Table) -> Footer | None:
    """Return the footer of the shard that `parse_rows` gave these rows of; None where a store did not write it."""
    metadata = rows.schema.metadata or {}
    return _footer_of(metadata, rows.num_rows) if b"input_key" in metadata else None


def _footer_of(metadata: Mapping[bytes, bytes], rows: int) -> Footer:
    """Return what the metadata of a Parquet file of so many rows says, which a store wrote."""
    values = {key.decode(): value.decode() for key, value in metadata.items() if key != b"ARROW:schema"}
    return Footer(
        values["input_key"],
        values["output_key"],
        values["content"],
        json.loads(values.get("columns", "{}")),
        rows,
        int(values["refused"]),
        int(values.get("passing", 0)),
        values.get("data_digest", ""),
        int(values.get("data_bytes", 0)),
    )


def _unreadable(path: str, error: Exception) -> ValueError:
    return ValueError(
        f"expected a Parquet shard at {path}, got a file that is damaged: {error}; remove it, or let `segue check "
        "--repair` do so, and the next run makes it anew"
    )
