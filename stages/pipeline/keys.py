"""Keys: which rows of its table a mapping stage makes of which rows of the table that drives it."""

from collections.abc import Mapping
from types import ModuleType

import pyarrow as pa

from schemas.shards import row_keys


def driving_key(module: ModuleType) -> tuple[str, ...]:
    """Return the columns that say which rows of WRITES were made from which rows of the first of READS."""
    return tuple(name for name in module.READS[0].key if name in module.WRITES.key)


def wanted_keys(module: ModuleType, driving: pa.Table) -> list[tuple[str, ...]]:
    """Return the keys of the rows that a mapping stage makes of rows of its driving table: one of each, or as many as
    the table's `copies` says, numbered from 0."""
    table = module.READS[0]
    keys = row_keys(driving, driving_key(module))
    if table.copies is None:
        return keys
    copies = driving.column(table.copies).to_pylist()
    return [(*key, str(number)) for key, count in zip(keys, copies, strict=True) for number in range(count)]


def driver_of(module: ModuleType, key: tuple[str, ...]) -> tuple[str, ...]:
    """Return the key of the driving row that a row of WRITES is made from."""
    return key[: len(driving_key(module))]


def outdated_keys(module: ModuleType, rows: pa.Table, inputs: Mapping[str, pa.Table]) -> set[tuple[str, ...]]:
    """Return the keys of rows of WRITES that repeat something which is no longer so.

    Args:
        rows: at least the key of WRITES and what it repeats.
        inputs: of each table of REPEATS, by name, at least its key and what is repeated.
    """
    outdated: set[tuple[str, ...]] = set()
    keys = row_keys(rows, module.WRITES.key)
    for table, names in getattr(module, "REPEATS", {}).items():
        shared = [name for name in table.key if name in module.WRITES.key]
        read = inputs[table.name]
        now = dict(zip(row_keys(read, shared), read.select(names).to_pylist(), strict=True))
        repeated = zip(keys, row_keys(rows, shared), rows.select(names).to_pylist(), strict=True)
        outdated |= {key for key, owner, row in repeated if owner in now and now[owner] != row}
    return outdated


def repeated_columns(module: ModuleType) -> list[str]:
    """Return the columns of WRITES that repeat what other tables say."""
    return [name for names in getattr(module, "REPEATS", {}).values() for name in names]
