"""What a stage says of itself: which rows of its table it makes of which rows of the table that drives it."""

from collections.abc import Mapping
from types import ModuleType

from schemas.storage.shards import Rows, column_values, row_keys, row_values


def driving_key(module: ModuleType) -> tuple[str, ...]:
    """Return the columns that say which rows of WRITES were made from which rows of the first of READS."""
    return tuple(name for name in module.READS[0].key if name in module.WRITES.key)


def is_staged(module: ModuleType) -> bool:
    """Return whether what a stage takes in replaces what it took in last as a whole or not at all."""
    return bool(getattr(module, "STAGED", False))


def wanted_keys(module: ModuleType, driving: Rows) -> list[tuple[str, ...]]:
    """Return the keys of the rows that a mapping stage makes of rows of its driving table: one of each, or as many as
    the table's `copies` says, numbered from 1."""
    table = module.READS[0]
    keys = row_keys(driving, driving_key(module))
    if table.copies is None:
        return keys
    copies = column_values(driving, table.copies)
    return [(*key, str(number)) for key, count in zip(keys, copies, strict=True) for number in range(1, count + 1)]


def driver_of(module: ModuleType, key: tuple[str, ...]) -> tuple[str, ...]:
    """Return the key of the driving row that a row of WRITES is made from."""
    return key[: len(driving_key(module))]


def outdated_keys(module: ModuleType, rows: Rows, inputs: Mapping[str, Rows]) -> set[tuple[str, ...]]:
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
        now = dict(zip(row_keys(read, shared), row_values(read, names), strict=True))
        repeated = zip(keys, row_keys(rows, shared), row_values(rows, names), strict=True)
        outdated |= {key for key, owner, row in repeated if owner in now and now[owner] != row}
    return outdated


def repeated_columns(module: ModuleType) -> list[str]:
    """Return the columns of WRITES that repeat what other tables say."""
    return [name for names in getattr(module, "REPEATS", {}).values() for name in names]
