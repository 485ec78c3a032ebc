"""Recordings inside Parquet tables, as Hugging Face's `datasets` stores them: a column whose values hold a file's
`bytes` and its `path` (the feature `Audio`).

A row's sound is named `parquet://name::table` and read in place, a row group at a time. The table's other columns are
read as a member named `metadata.parquet`.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from stages.audio.archives import archive_state

PROTOCOL = "parquet://"

OTHER_COLUMNS = "metadata.parquet"
"""Name of the member that holds the table's other columns, and `FILE_NAME`."""

FILE_NAME = "file_name"
"""Column of that member that names the sound of each row."""

TABLES_KEPT, GROUPS_KEPT = 16, 2
"""Tables whose names are cached, and row groups whose sounds are cached: recordings are read in the order of their
names."""


@dataclass(frozen=True)
class SoundTable:
    """Where the sounds of a table are."""

    column: str
    """Name of the column that holds them."""
    rows: Mapping[str, tuple[int, int]]
    """For each sound, by its name: the row group, and the row in that group."""


def row_uri(name: str, table: str) -> str:
    """Return the URI of a row's sound. `table` is an absolute path or a URL."""
    return f"{PROTOCOL}{name}::{table if '://' in table else f'file://{table}'}"


def sound_table(filesystem: AbstractFileSystem, path: str) -> SoundTable | None:
    """Return where the sounds of a table are; None if it has none.

    Raises:
        ValueError: the file is not a Parquet table.
        OSError: the disk or the network failed.
    """
    return _sound_table(filesystem, path, archive_state(filesystem, path))


def open_row(filesystem: AbstractFileSystem, path: str, name: str) -> io.BytesIO | None:
    """Open the sound of a row, or for the name `metadata.parquet` the other columns. None if there is no such row, or
    it has no bytes.

    Raises:
        ValueError: the file is not a Parquet table.
        OSError: the disk or the network failed.
    """
    state = archive_state(filesystem, path)
    table = _sound_table(filesystem, path, state)
    if table is None:
        return None
    if name == OTHER_COLUMNS:
        return io.BytesIO(_describe(filesystem, path, table))
    if name not in table.rows:
        return None
    group, row = table.rows[name]
    sound = _sounds(filesystem, path, state, table.column, group)[row].as_py()
    return None if sound is None else io.BytesIO(sound)


@lru_cache(TABLES_KEPT)
def _sound_table(filesystem: AbstractFileSystem, path: str, state: tuple[str, ...]) -> SoundTable | None:
    """Read the names of a table's sounds; `state` is part of the cache's key, so that a changed table is read again."""
    try:
        with filesystem.open(path, "rb") as opened:
            file = pq.ParquetFile(opened)
            column = next((field.name for field in file.schema_arrow if _is_sound(field.type)), None)
            if column is None:
                return None
            rows: dict[str, tuple[int, int]] = {}
            for group in range(file.num_row_groups):
                paths = file.read_row_group(group, columns=[f"{column}.path"]).column(column)
                for row, value in enumerate(paths.to_pylist()):
                    rows[_name(value and value["path"], len(rows), rows)] = group, row
            return SoundTable(column, rows)
    except pa.ArrowInvalid as error:
        raise ValueError(f"expected a Parquet table, got {str(error)[:120]}") from error


def _is_sound(kind: pa.DataType) -> bool:
    """Return whether a column's values are files: structs with a path and bytes."""
    if not pa.types.is_struct(kind):
        return False
    fields = {field.name: field.type for field in kind}
    return "path" in fields and "bytes" in fields and pa.types.is_binary(fields["bytes"])


def _name(path: str | None, number: int, used: Mapping[str, object]) -> str:
    """Return a name for a row's sound that no other row has. A row without a path gets a number as its name; its
    extension does not matter, because files are decoded by their content."""
    name = PurePosixPath(path).name if path else f"{number}.wav"
    return f"{number}-{name}" if name in used or name == OTHER_COLUMNS else name


@lru_cache(GROUPS_KEPT)
def _sounds(filesystem: AbstractFileSystem, path: str, state: tuple[str, ...], column: str, group: int) -> pa.Array:
    """Return the bytes of the files of a row group."""
    with filesystem.open(path, "rb") as opened:
        read = pq.ParquetFile(opened).read_row_group(group, columns=[f"{column}.bytes"])
    return read.column(column).combine_chunks().field("bytes")


def _describe(filesystem: AbstractFileSystem, path: str, table: SoundTable) -> bytes:
    """Return the table's columns without sounds, as the bytes of a Parquet table."""
    with filesystem.open(path, "rb") as opened:
        file = pq.ParquetFile(opened)
        names = [field.name for field in file.schema_arrow if not _is_sound(field.type) and field.name != FILE_NAME]
        columns = file.read(columns=names) if names else pa.table({})
    described = columns.append_column(FILE_NAME, pa.array(list(table.rows), pa.string()))
    written = io.BytesIO()
    pq.write_table(described.replace_schema_metadata(None), written)
    return written.getvalue()
