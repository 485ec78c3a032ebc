"""Holdings: every file of a store by what it is: a file of a version's rows, a file that rows name, or neither."""

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from schemas.storage.drafts import DRAFT_NAME, HISTORY_NAME, PART_NAME
from schemas.storage.file_store import STALE_SECONDS
from schemas.storage.row_files import orphans
from schemas.storage.shards import SHARD_NAME
from schemas.storage.store import Store
from schemas.tables import TABLES, Table

Kind = Literal["published", "draft", "part", "history"]

_NAMES: dict[Kind, tuple[str, re.Pattern[str]]] = {
    "published": ("", SHARD_NAME),
    "draft": ("/drafts", DRAFT_NAME),
    "part": ("/drafts", PART_NAME),
    "history": ("/history", HISTORY_NAME),
}
"""For each kind of file with rows, its folder below a version and the form of its name."""

FILE_FOLDERS = ("audio", "models", "report")
"""The folders of files that rows name."""

PAGE_FOLDERS = ("report/pictures", "report/excerpts")
"""Folders of files that the report's page names rather than a row. The report cleans them up itself."""

LEFTOVER = ".inprogress"
"""The ending of the names of temporary files and folders."""


@dataclass(frozen=True)
class Holding:
    """A file with rows of a version of a table."""

    table: Table
    version: str
    kind: Kind
    shard: str
    path: str
    bytes: int
    digest: str = ""
    """The digest in the name of a replaced shard; empty for other kinds."""


def versions_of(store: Store, table: Table) -> list[str]:
    """Return every version of a table that has a folder, including those without published shards."""
    return [name.removeprefix("version=") for name in store.folders(table.name) if name.startswith("version=")]


def holdings(store: Store, table: Table, version: str) -> Iterator[Holding]:
    """Yield every file with rows of a version."""
    folder = store.folder(table, version)
    for kind, (below, pattern) in _NAMES.items():
        for name, size in store.sizes(folder + below).items():
            if match := pattern.fullmatch(name):
                digest = match[2] if kind == "history" else ""
                yield Holding(table, version, kind, match[1], f"{folder}{below}/{name}", size, digest)


def foreign_files(store: Store, table: Table) -> dict[str, int]:
    """Return the files in a table's folders that are not the store's, with their sizes in bytes: for example copies
    that a synchronising program made. Nothing reads them."""
    sizes = {f"{table.name}/{name}": size for name, size in store.sizes(table.name).items()}
    for version in versions_of(store, table):
        folder = store.folder(table, version)
        for below in ("", "/drafts", "/history"):
            patterns = [pattern for where, pattern in _NAMES.values() if where == below]
            names = store.sizes(folder + below)
            sizes |= {
                f"{folder}{below}/{name}": size
                for name, size in names.items()
                if not any(pattern.fullmatch(name) for pattern in patterns)
            }
    return {path: size for path, size in sizes.items() if not path.endswith(LEFTOVER)}


def leftovers(store: Store, now: float | None = None) -> dict[str, int]:
    """Return the temporary files and folders that killed runs left, with their sizes in bytes. They are more than an
    hour old, so that they do not belong to a run at work.

    Args:
        now: the present in seconds since 1970; None takes the clock's.
    """
    sizes = {name: size for name, size in store.sizes("").items() if LEFTOVER in name}
    sizes |= {name: size_of(store, name) for name in store.folders("") if name.endswith(LEFTOVER)}
    for folder in (*TABLES, *FILE_FOLDERS, "leases", "damaged"):
        sizes |= _leftovers_under(store, folder)
    return {path: size for path, size in sizes.items() if age_of(store, path, now) > STALE_SECONDS}


def _leftovers_under(store: Store, folder: str) -> dict[str, int]:
    sizes = {f"{folder}/{name}": size for name, size in store.sizes(folder).items() if name.endswith(LEFTOVER)}
    for name in store.folders(folder):
        path = f"{folder}/{name}"
        sizes |= {path: size_of(store, path)} if name.endswith(LEFTOVER) else _leftovers_under(store, path)
    return sizes


def named_files(table: Table, rows: pa.Table) -> set[str]:
    """Return the paths of all files that the rows name."""
    paths = [path for columns in table.files for path in rows.column(columns.path).to_pylist()]
    return {path for path in paths if path is not None}


def unnamed_files(store: Store, named: set[str], now: float | None = None) -> dict[str, int]:
    """Return the files that no row names, with their sizes in bytes. They are more than an hour old, since a file is
    written before the row that names it.

    Args:
        named: the paths that rows name.
        now: the present in seconds since 1970; None takes the clock's.
    """
    sizes: dict[str, int] = {}
    for folder in FILE_FOLDERS:
        sizes |= orphans(store, folder, named.union(PAGE_FOLDERS))
    return {
        path: size for path, size in sizes.items() if LEFTOVER not in path and age_of(store, path, now) > STALE_SECONDS
    }


def size_of(store: Store, path: str) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    below = sum(orphans(store, path, set()).values())
    return below or store.size(path) or 0


def age_of(store: Store, path: str, now: float | None = None) -> float:
    """Return the seconds since a file, or the newest file in a folder, was written; 0 if it is gone by now."""
    names = orphans(store, path, set()) or [path]
    newest = 0.0
    for name in names:
        with suppress(FileNotFoundError):
            newest = max(newest, store.filesystem.modified(store.path(name)).timestamp())
    return (time.time() if now is None else now) - newest if newest else 0.0
