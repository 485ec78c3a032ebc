"""What a shard says of itself in its Parquet footer: enough to plan by."""

from dataclasses import dataclass

import pyarrow.parquet as pq


@dataclass(frozen=True)
class Footer:
    """What a shard's Parquet footer says of it, read without reading a row."""

    input_key: str
    """Identity of the keys that the shard was made from."""
    output_key: str
    """Identity of the keys of its own rows."""
    content: str
    """Digest of its rows (of the table's `identity` columns)."""
    rows: int
    refused: int
    """Items that the stage refused while it made this shard."""


def footer_of(metadata: pq.FileMetaData, path: str) -> Footer:
    """What the metadata of the Parquet file at `path` says.

    Raises:
        ValueError: the file is not a shard that a store wrote.
    """
    values = {
        key.decode(): value.decode() for key, value in (metadata.metadata or {}).items() if key != b"ARROW:schema"
    }
    if "input_key" not in values:
        raise ValueError(f"expected a shard with an input_key in its footer, got {path}, which something else wrote")
    refused = int(values["refused"])
    return Footer(values["input_key"], values["output_key"], values["content"], metadata.num_rows, refused)
