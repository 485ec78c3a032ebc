"""Addresses of recordings in rows: written relative to the store where they lie in it, and read as full addresses.

A store may be moved or copied, and the demo corpus lies inside it. So a written row says
`segue-store://demo/studio/a.flac`, and whoever reads it through the store or its views gets the path or URL where the
file is now. Addresses outside the store are not changed.

Arrow's functions are imported only where there are addresses to change: the import takes an eighth of the time of
`segue sql`.
"""

import re
from collections.abc import Callable

import pyarrow as pa

from schemas.tables import Table

STORE_PREFIX = "segue-store://"
"""Stands for the store's folder in a written address."""

ADDRESS = "uri"
"""The field that holds the address, in columns of records."""


def written_address(uri: str, prefix: str) -> str:
    """Return an address as it is written.

    Args:
        prefix: what a full address inside the store begins with, up to and including the slash; empty for none.
    """
    return f"{STORE_PREFIX}{uri[len(prefix) :]}" if prefix and uri.startswith(prefix) else uri


def written_addresses(table: Table, rows: pa.Table, prefix: str) -> pa.Table:
    """Return rows as they are written, with addresses inside the store relative to it.

    Args:
        prefix: what a full address inside the store begins with, up to and including the slash.
    """
    # A member of an archive is `tar://name::archive`, and the archive may lie in the store.
    pattern = f"^((?:.*::)?){re.escape(prefix)}"

    def shorten(texts: pa.Array) -> pa.Array:
        import pyarrow.compute as pc

        return pc.replace_substring_regex(texts, pattern, rf"\1{STORE_PREFIX}")

    return _with_addresses(table, rows, prefix, shorten)


def read_addresses(table: Table, rows: pa.Table, prefix: str) -> pa.Table:
    """Return rows as they are read, with full addresses of files inside the store. Rows may lack columns.

    Args:
        prefix: what a full address inside the store begins with now, up to and including the slash.
    """

    def lengthen(texts: pa.Array) -> pa.Array:
        import pyarrow.compute as pc

        return pc.replace_substring(texts, STORE_PREFIX, prefix)

    return _with_addresses(table, rows, STORE_PREFIX, lengthen)


def _with_addresses(table: Table, rows: pa.Table, marker: str, change: Callable[[pa.Array], pa.Array]) -> pa.Table:
    """Return rows with their addresses changed by `change`, in the columns where any address contains `marker`. Most
    tables have no such column."""
    for name in table.locations:
        number = rows.schema.get_field_index(name)
        if number < 0 or not _holds(rows.column(name), marker):
            continue
        field = rows.schema.field(name)
        chunks = [_changed(chunk, change) for chunk in rows.column(name).chunks]
        rows = rows.set_column(number, field, pa.chunked_array(chunks, field.type))
    return rows


def _holds(values: pa.ChunkedArray, marker: str) -> bool:
    """Return whether any address in a column contains `marker`."""
    import pyarrow.compute as pc

    if pa.types.is_list(values.type):
        if values.type.value_type.get_field_index(ADDRESS) < 0:  # only other fields of the records were read
            return False
        values = pc.struct_field(pc.list_flatten(values), ADDRESS)
    return bool(pc.any(pc.match_substring(values, marker)).as_py())


def _changed(values: pa.Array, change: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """Return a column of addresses, or of lists of records with an address each, with every address changed."""
    kind = values.type
    if pa.types.is_list(kind):
        import pyarrow.compute as pc

        lengths = pc.fill_null(pc.list_value_length(values), 0)
        offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths).cast(pa.int32())])
        return pa.ListArray.from_arrays(offsets, _changed(values.flatten(), change), kind, mask=values.is_null())
    if pa.types.is_struct(kind):
        fields = [
            change(part) if field.name == ADDRESS else part for field, part in zip(kind, values.flatten(), strict=True)
        ]
        return pa.StructArray.from_arrays(fields, fields=list(kind), mask=values.is_null())
    return change(values)
