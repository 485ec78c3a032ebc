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
    """Columns of a table that name a file or folder of the store and describe what it must contain."""

    path: str
    bytes: str | None = None
    """The column with the file's size; None for a folder, which only has to exist."""
    sha256: str | None = None
    """The column with the file's digest."""
    small: bool = False
    """Whether the file has the same name in all versions and is quick to read. Its digest is then compared, to see
    whether it is this version's."""
    folder_digest: str | None = None
    """The column with the folder's digest (`schemas.weights.folder_digest`)."""


@dataclass(frozen=True)
class Table:
    """A table's name, columns, key and meaning."""

    name: str
    about: str
    """What one row is, as a phrase that completes "one row is …"."""
    key: tuple[str, ...]
    schema: pa.Schema
    accumulates: bool = False
    """Whether the view shows the rows of every version (records), or only those of the newest (derived data)."""
    identity: tuple[str, ...] | None = None
    """The columns that enter a shard's content digest; None means all. Left out are places and times."""
    combined: bool = False
    """Whether many files of the table are merged into one (`schemas.storage.records`). A key may then be there twice
    for a while."""
    copies: str | None = None
    """The column that says how many rows the stage that reads this table makes from one row."""
    locations: tuple[str, ...] = ()
    """The columns that hold addresses of recordings, or lists of records with an address in the field `uri`. Addresses
    inside the store are written relative to it (`schemas.storage.addresses`)."""
    files: tuple[FileColumns, ...] = ()
    """The columns that name files of the store. A row whose file is gone is made again."""


def columns(**types: pa.DataType) -> pa.Schema:
    """Return a schema from names and types."""
    return pa.schema(list(types.items()))


def selected(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    """Return the schema of the named columns, in the order in which they are first named.

    Args:
        names: columns; `files.uri` names the field `uri` of a list of records, which then keeps only its named fields.
    """
    fields: dict[str, list[str]] = {}
    for name in names:
        column, _, part = name.partition(".")
        fields.setdefault(column, []).append(part)
    return pa.schema([_narrowed(schema.field(column), parts) for column, parts in fields.items()])


def _narrowed(field: pa.Field, parts: Sequence[str]) -> pa.Field:
    """Return a column with only the named fields of its records, or whole where one of the names is empty."""
    if "" in parts:
        return field
    records = field.type.value_type
    return field.with_type(pa.list_(pa.struct([each for each in records.fields if each.name in parts])))
