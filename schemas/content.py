"""What rows are, as opposed to how a file lays them out: their keys and the digest of their values.

Arrow's buffers may hold anything under a null and any slice of a larger buffer, so the digest walks the values.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.table import Table


def row_keys(rows: pa.Table, key: Sequence[str]) -> list[tuple[str, ...]]:
    """The key of every row as a tuple of text."""
    return list(zip(*([str(value) for value in rows.column(name).to_pylist()] for name in key), strict=True))


def content_digest(table: Table, rows: pa.Table) -> str:
    """Digest of the rows' identity columns, in the order of the rows: the same for the same values, however stored."""
    digest = hashlib.sha256()
    for name in table.identity or table.schema.names:
        digest.update(name.encode())
        _update(digest, rows.column(name).combine_chunks())
    return digest.hexdigest()[:16]


def _update(digest: Any, values: pa.Array) -> None:
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
    digest.update(np.packbits(values.is_valid().to_numpy(zero_copy_only=False)).tobytes())
    kind = values.type
    if pa.types.is_map(kind):
        values = values.cast(pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)])))
        kind = values.type
    if pa.types.is_list(kind):
        digest.update(pc.fill_null(values.value_lengths(), -1).to_numpy().tobytes())
        _update(digest, values.flatten())
    elif pa.types.is_struct(kind):
        for position in range(kind.num_fields):
            _update(digest, values.field(position))
    elif pa.types.is_string(kind):
        encoded = [value.encode() for value in values.drop_null().to_pylist()]
        digest.update(np.array([len(value) for value in encoded], dtype=np.int64).tobytes())
        digest.update(b"".join(encoded))
    elif pa.types.is_timestamp(kind):
        _update(digest, values.cast(pa.int64()))
    else:
        digest.update(values.drop_null().to_numpy(zero_copy_only=False).tobytes())
