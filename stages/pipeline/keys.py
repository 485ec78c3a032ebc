"""Keys: which rows of its table a stage makes from which rows of its driving table."""

from collections.abc import Mapping
from types import ModuleType

from schemas.storage.shards import Rows, column_values, row_keys, row_values


def driving_key(module: ModuleType) -> tuple[str, ...]:
    """Return the columns that link rows of WRITES to the rows that they were made from, in the first table of READS."""
    return tuple(name for name in module.READS[0].key if name in module.WRITES.key)


def is_staged(module: ModuleType) -> bool:
    """Return whether new content of a stage's source replaces all of the old content, or none of it if a check
    fails."""
    return bool(getattr(module, "STAGED", False))


def wanted_keys(module: ModuleType, driving: Rows) -> list[tuple[str, ...]]:
    """Return the keys of the rows that a mapping stage makes from rows of its driving table. Each row gives one, or as
    many as the column that the table names in `copies` says, numbered from 1."""
    table = module.READS[0]
    keys = row_keys(driving, driving_key(module))
    if table.copies is None:
        return keys
    copies = column_values(driving, table.copies)
    return [(*key, str(number)) for key, count in zip(keys, copies, strict=True) for number in range(1, count + 1)]


def driver_of(module: ModuleType, key: tuple[str, ...]) -> tuple[str, ...]:
    """Return the key of the driving row that a row of WRITES is made from, given the key of the row of WRITES."""
    return key[: len(driving_key(module))]


def outdated_keys(module: ModuleType, rows: Rows, inputs: Mapping[str, Rows]) -> set[tuple[str, ...]]:
    """Return the keys of rows of WRITES that repeat values which have changed in the table that they come from.

    Args:
        rows: at least the key of WRITES and the repeated columns.
        inputs: for each table of REPEATS, by name: at least its key and the columns that are repeated.
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
    """Return the columns of WRITES that repeat columns of other tables."""
    return [name for names in getattr(module, "REPEATS", {}).values() for name in names]
