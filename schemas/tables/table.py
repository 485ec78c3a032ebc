"""What a table is: its columns, its key, and which of its columns name files of the store."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

TEXT, TEXTS = pa.string(), pa.list_(pa.string())
VECTOR = pa.list_(pa.float32())

Row = dict[str, Any]
"""A row of a table, by column."""


@dataclass(frozen=True)
class FileColumns:
    """Columns of a table that name a file or folder of the store, and say how it must be."""

    path: str
    bytes: str | None = None
    """The column of its size; None for a folder, which must be there."""
    sha256: str | None = None
    """The column of its digest."""
    small: bool = False
    """A file under one name for all versions, and soon read: that it is this version's is told by its digest."""
    folder_digest: str | None = None
    """The column of a folder's digest (`schemas.weights.folder_digest`)."""


@dataclass(frozen=True)
class Table:
    """A table's name, columns, key and meaning."""

    name: str
    about: str
    """One row is …"""
    key: tuple[str, ...]
    schema: pa.Schema
    accumulates: bool = False
    """Every version is part of the view (records), rather than the newest one alone (derived data)."""
    identity: tuple[str, ...] | None = None
    """The columns whose values enter a shard's content digest; None: all of them. Left out: where and when."""
    combined: bool = False
    """Records whose files are put together as they grow many (`schemas.storage.records`), so that a key may stand twice
    for a while."""
    copies: str | None = None
    """The column that says how many rows are made from a row, by the stage that the table drives."""
    locations: tuple[str, ...] = ()
    """The columns that hold addresses of recordings, or lists of records with one each in `uri`: those inside the store
    are written relative to it (`schemas.storage.addresses`)."""
    files: tuple[FileColumns, ...] = ()
    """The columns that name files of the store: a row whose file is gone is made again."""


def columns(**types: pa.DataType) -> pa.Schema:
    """Return a schema from names and types."""
    return pa.schema(list(types.items()))


def selected(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    """Return the schema of some columns, in the order in which they are named first.

    Args:
        names: columns; `files.uri` is the field `uri` of a list of records, which then has those named alone.
    """
    fields: dict[str, list[str]] = {}
    for name in names:
        column, _, part = name.partition(".")
        fields.setdefault(column, []).append(part)
    return pa.schema([_narrowed(schema.field(column), parts) for column, parts in fields.items()])


def _narrowed(field: pa.Field, parts: Sequence[str]) -> pa.Field:
    """Return a column with some fields of its records, or whole where one of the names is empty."""
    if "" in parts:
        return field
    records = field.type.value_type
    return field.with_type(pa.list_(pa.struct([each for each in records.fields if each.name in parts])))
