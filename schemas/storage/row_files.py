"""Files that rows name: whether they are as the rows say, found by listing folders and reading only small files."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache

import pyarrow as pa

from schemas.storage.store import Store
from schemas.tables import Row, Table


def file_columns(table: Table) -> list[str]:
    """Return the columns that `absent_files` reads, the table's key first."""
    named = [
        name
        for columns in table.files
        for name in (columns.path, columns.bytes, columns.sha256 if columns.small else None)
        if name
    ]
    return [*table.key, *(name for name in named if name not in table.key)]


def absent_files(store: Store, table: Table, rows: pa.Table) -> list[str]:
    """Return for each row a sentence about the first of its files that is absent or differs; empty where all are as
    the row says.

    Args:
        rows: at least the columns of `file_columns`.

    Raises:
        OSError: a folder could not be listed, so it is not known whether the files are there.
    """
    listing = cache(store.sizes)
    folders = cache(store.folders)
    absent = []
    for row in rows.select(file_columns(table)).to_pylist():
        absent.append(next((problem for problem in _problems(store, table, row, listing, folders) if problem), ""))
    return absent


def orphans(store: Store, folder: str, named: set[str]) -> dict[str, int]:
    """Return the files under a folder that are not in `named`, with their sizes in bytes, by path in the store."""
    sizes: dict[str, int] = {}
    for name, size in store.sizes(folder).items():
        if f"{folder}/{name}" not in named:
            sizes[f"{folder}/{name}"] = size
    for name in store.folders(folder):
        if f"{folder}/{name}" not in named:
            sizes |= orphans(store, f"{folder}/{name}", named)
    return sizes


def _problems(
    store: Store,
    table: Table,
    row: Row,
    listing: Callable[[str], Mapping[str, int]],
    folders: Callable[[str], list[str]],
) -> Iterator[str]:
    for columns in table.files:
        path = row[columns.path]
        if path is None:
            continue
        folder, _, name = path.rpartition("/")
        size = listing(folder).get(name)
        if size is None and name not in folders(folder):
            yield f"{path} is not there"
        elif size is not None and columns.bytes and row[columns.bytes] not in (None, size):
            yield f"{path} has {size} bytes, {row[columns.bytes]} were written"
        elif size is not None and columns.small and columns.sha256 and _digest(store, path) != row[columns.sha256]:
            yield f"{path} belongs to another version"


def _digest(store: Store, path: str) -> str:
    return hashlib.sha256(store.read_bytes(path)).hexdigest()
