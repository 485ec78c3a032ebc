"""Recordings inside of Parquet tables, as Hugging Face's `datasets` keeps them: a column whose values have the file's
`bytes` and its `path` (the feature `Audio`). A row's sound is named `parquet://name::table` and read where it lies, a
group of rows at a time; the table's other columns are told by a member of their own, `metadata.parquet`.
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

DESCRIBED = "metadata.parquet"
"""The member that tells the other columns, beside `FILE_NAME`."""

FILE_NAME = "file_name"
"""The column of it that names the sound of a row."""

TABLES_KEPT, GROUPS_KEPT = 16, 2
"""Tables whose names are kept, and groups of rows whose sounds are: recordings come in the order of their names."""


@dataclass(frozen=True)
class SoundTable:
    """Where the sounds of a table lie."""

    column: str
    rows: Mapping[str, tuple[int, int]]
    """The group of rows and the row in it, by name."""


def row_uri(name: str, table: str) -> str:
    """Return the URI of a row's sound in a table that is itself named by an absolute path or a URL."""
    return f"{PROTOCOL}{name}::{table if '://' in table else f'file://{table}'}"


def sound_table(filesystem: AbstractFileSystem, path: str) -> SoundTable | None:
    """Return where the sounds of a table lie; None where it has none.

    Raises:
        ValueError: it is no Parquet table.
        OSError: the disk or the network failed.
    """
    return _sound_table(filesystem, path, archive_state(filesystem, path))


def open_row(filesystem: AbstractFileSystem, path: str, name: str) -> io.BytesIO | None:
    """Open the sound of a row, or what the other columns tell; None where there is no such row, or it has no bytes.

    Raises:
        ValueError: it is no Parquet table.
        OSError: the disk or the network failed.
    """
    state = archive_state(filesystem, path)
    table = _sound_table(filesystem, path, state)
    if table is None:
        return None
    if name == DESCRIBED:
        return io.BytesIO(_describe(filesystem, path, table))
    if name not in table.rows:
        return None
    group, row = table.rows[name]
    sound = _sounds(filesystem, path, state, table.column, group)[row].as_py()
    return None if sound is None else io.BytesIO(sound)


@lru_cache(TABLES_KEPT)
def _sound_table(filesystem: AbstractFileSystem, path: str, state: tuple[str, ...]) -> SoundTable | None:
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
    """Return whether a column's values are files with their names."""
    if not pa.types.is_struct(kind):
        return False
    fields = {field.name: field.type for field in kind}
    return "path" in fields and "bytes" in fields and pa.types.is_binary(fields["bytes"])


def _name(path: str | None, number: int, taken: Mapping[str, object]) -> str:
    """Return a name of a row's sound that no other row has; what nobody has named is decoded by its content."""
    name = PurePosixPath(path).name if path else f"{number}.wav"
    return f"{number}-{name}" if name in taken or name == DESCRIBED else name


@lru_cache(GROUPS_KEPT)
def _sounds(filesystem: AbstractFileSystem, path: str, state: tuple[str, ...], column: str, group: int) -> pa.Array:
    """Return the files of a group of rows."""
    with filesystem.open(path, "rb") as opened:
        read = pq.ParquetFile(opened).read_row_group(group, columns=[f"{column}.bytes"])
    return read.column(column).combine_chunks().field("bytes")


def _describe(filesystem: AbstractFileSystem, path: str, table: SoundTable) -> bytes:
    """Return the columns beside the files, as a Parquet table of its own."""
    with filesystem.open(path, "rb") as opened:
        file = pq.ParquetFile(opened)
        told = [field.name for field in file.schema_arrow if not _is_sound(field.type) and field.name != FILE_NAME]
        columns = file.read(columns=told) if told else pa.table({})
    described = columns.append_column(FILE_NAME, pa.array(list(table.rows), pa.string()))
    written = io.BytesIO()
    pq.write_table(described.replace_schema_metadata(None), written)
    return written.getvalue()
