"""What a table is: its name, its columns, its key, and what of it counts as its content."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

TEXT, TEXTS = pa.string(), pa.list_(pa.string())

Row = dict[str, Any]
"""A row of a table, by column."""


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


def columns(**types: pa.DataType) -> pa.Schema:
    """A schema from names and types."""
    return pa.schema(list(types.items()))
