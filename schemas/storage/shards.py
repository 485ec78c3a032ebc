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
"""How much of a shard's end is read first. Only the footer of a table with very many row groups is larger."""

SHARD_NAME = re.compile(r"shard=([0-9A-Za-z_-]+)\.parquet")
"""Files of any other name are not the store's, such as copies that a synchronising program or a file manager made."""


@dataclass(frozen=True)
class Footer:
    """What a shard's Parquet footer says about it, read without reading any rows."""

    input_key: str
    """Digest of the keys that the shard was made from."""
    output_key: str
    """Digest of the keys of its own rows, as stages read them (`output_keys`)."""
    content: str
    """Digest of its rows (of the table's `identity` columns)."""
    columns: Mapping[str, str]
    """Digest of each of the table's `identity` columns (`schemas.storage.digests`). These digests add up over shards;
    empty in files of early releases."""
    rows: int
    refused: int
    """Items that the stage refused while it made this shard."""
    passing: int = 0
    """How many of the refused items the next run tries again."""
    data_digest: str = ""
    """Digest of the file's first `data_bytes` bytes, which hold its rows; empty in files of early releases."""
    data_bytes: int = 0


def sort_shards(shards: Iterable[str]) -> list[str]:
    """Sort the names of shards: numbers first, in numerical order, then other names."""
    return sorted(shards, key=lambda shard: (0, int(shard), "") if shard.isdecimal() else (1, 0, shard))


def encode_shard(table: Table, rows: pa.Table, input_key: str, where: str, refused: int = 0, passing: int = 0) -> bytes:
    """Return a shard as the bytes of a Parquet file: rows sorted by key, pages with checksums, and the contents of a
    `Footer` in its footer.

    Args:
        where: where the shard will be written, for error messages.
        refused, passing: as in `Footer`.

    Raises:
        ValueError: the rows do not have the table's schema, or a key appears twice.
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
    """Return the end of a file, long enough to contain its whole Parquet footer if it has one."""
    tail = bytes(filesystem.cat_file(path, start=-FOOTER_BYTES))
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if tail[-4:] == b"PAR1" and length > len(tail):
        tail = bytes(filesystem.cat_file(path, start=-length))
    return tail


def parse_footer(tail: bytes, path: str) -> Footer:
    """Return the footer from the last bytes of a shard.

    Raises:
        ValueError: the bytes are not the end of a shard.
    """
    metadata = _metadata(tail, path)
    values = metadata.metadata or {}
    if b"input_key" not in values:
        raise ValueError(f"expected a shard with an input_key in its footer, got {path}, which something else wrote")
    return _footer_of(values, metadata.num_rows)


def column_bytes(tail: bytes, path: str) -> dict[str, int]:
    """Return how many bytes each column of a shard takes, from the footer in its last bytes.

    Raises:
        ValueError: the bytes are not the end of a Parquet file.
    """
    metadata = _metadata(tail, path)
    sizes: dict[str, int] = {}
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            name = column.path_in_schema.split(".")[0]
            sizes[name] = sizes.get(name, 0) + column.total_compressed_size
    return sizes


def _metadata(tail: bytes, path: str) -> pq.FileMetaData:
    length = int.from_bytes(tail[-8:-4], "little") + 8
    try:
        return pq.read_metadata(pa.BufferReader(b"PAR1" + tail[-length:]))
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


THREADED_BYTES = 2**20
"""Size in bytes from which several threads decode a shard's columns. Below it, waking them takes longer than it
saves."""


def parse_rows(data: bytes, names: Sequence[str], path: str) -> pa.Table:
    """Return the columns `names` that a Parquet file has, with its footer in the schema's metadata. Names that the file
    lacks are ignored.

    Args:
        names: columns; `files.uri` reads only the field `uri` of a list of records.

    Raises:
        ValueError: the bytes are not a Parquet file, or it is damaged.
    """
    # Parquet calls a list's items `element`.
    paths = [name.replace(".", ".list.element.") for name in names]
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        return file.read(columns=paths, use_threads=len(data) >= THREADED_BYTES)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def read_columns(filesystem: fsspec.AbstractFileSystem, path: str, names: Sequence[str]) -> pa.Table:
    """Return the columns `names` that a Parquet file has, fetching little else of it. For short columns of tables that
    also have long ones.

    Raises:
        ValueError: the file is not Parquet, or is damaged.
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
"""Rows of a table as stored (Arrow), or as planned (mappings). Converting planned rows to Arrow would load pandas,
which takes longer than the plan."""


def column_values(rows: Rows, name: str) -> list[Any]:
    """Return the values of a column."""
    if isinstance(rows, pa.Table):
        values: list[Any] = rows.column(name).to_pylist()
        return values
    return [row[name] for row in rows]


def row_values(rows: Rows, names: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return the values of the named columns in every row, a tuple for each row."""
    return list(zip(*(column_values(rows, name) for name in names), strict=True))


def row_keys(rows: Rows, key: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the key of every row, as a tuple of texts."""
    return list(zip(*([str(value) for value in column_values(rows, name)] for name in key), strict=True))


def distinct(table: Table, rows: Iterable[pa.Table]) -> pa.Table:
    """Return rows in one table, with only the last row of each key. The rows need not have all columns."""
    parts = list(rows)
    combined = pa.concat_tables(parts) if parts else pa.Table.from_batches([], table.schema)
    last = {key: number for number, key in enumerate(row_keys(combined, table.key))}
    if len(last) == combined.num_rows:  # nearly always; saves `take`, which loads all of Arrow's functions
        return combined
    return combined.take(pa.array(sorted(last.values()), pa.int64()))


def output_keys(table: Table, rows: Rows) -> list[tuple[str, ...]]:
    """Return the keys that a stage reading the table makes its rows from: the key of every row, extended by the number
    of copies where several rows are made from one (`Table.copies`)."""
    return row_keys(rows, (*table.key, *([table.copies] if table.copies else [])))


def footer_of_rows(rows: pa.Table) -> Footer | None:
    """Return the footer of the shard that `parse_rows` read these rows from; None if a store did not write it."""
    metadata = rows.schema.metadata or {}
    return _footer_of(metadata, rows.num_rows) if b"input_key" in metadata else None


def _footer_of(metadata: Mapping[bytes, bytes], rows: int) -> Footer:
    """Return a footer from the metadata of a Parquet file that a store wrote, and from its number of rows."""
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
        f"expected a Parquet shard at {path}, got a file that is damaged: {error}; remove it, or run `segue check "
        "--repair`, and the next run makes it again"
    )
