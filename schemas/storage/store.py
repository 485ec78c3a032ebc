"""The store: tables as Parquet shards, and files beside them, under one fsspec URL (`schemas.storage.file_store`).

Each shard is one file, replaced atomically. Its footer holds `input_key`, the identity of the keys that it was made
from; the shard is done if and only if that matches. There are no separate markers that could disagree with the data.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeAlias, TypeVar

import pyarrow as pa

from schemas.storage.addresses import read_addresses, written_addresses
from schemas.storage.digests import column_digests
from schemas.storage.file_store import IDENTITY, FileStore
from schemas.storage.shards import (
    SHARD_NAME,
    Footer,
    column_bytes,
    distinct,
    encode_shard,
    footer_of_rows,
    parse_footer,
    parse_rows,
    read_tail,
    sort_shards,
)
from schemas.tables import PUBLICATIONS, RUNS, Table, selected

_FileKey: TypeAlias = tuple[str, int, int]
"""A path, an inode, and the time of the last write in nanoseconds."""

Part = TypeVar("Part")

AT_ONCE = 8
"""Files read at once from an object store, where each read is a request that waits. On a local disk, threads are no
faster: what they gain while Arrow reads in parallel, they lose taking turns with Python."""


class Store(FileStore):
    """Tables and files under `url`: a local folder or any fsspec URL (`s3://…`, `gs://…`, `memory://…`).

    Raises:
        ValueError: nothing that is installed can open such a URL.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._footers: dict[_FileKey, Footer] = {}
        self._remembered: dict[str, Footer] | None = None
        self._column_digests: dict[tuple[str, str], Mapping[str, str]] = {}
        self._records: dict[tuple[_FileKey, tuple[str, ...]], pa.Table] = {}

    def absence(self) -> str:
        """Return what lies at the URL if it is not a store that a run has begun, as words to follow `got` in a message;
        empty if it is such a store."""
        if not self.filesystem.exists(self.root):
            return "nothing there"
        if self.exists(IDENTITY) or any(map(self.versions, (RUNS, PUBLICATIONS))):
            return ""
        what = "a folder with other content" if self.files("") or self.folders("") else "an empty folder"
        return f"{what}, without the {IDENTITY} that a first run writes"

    @staticmethod
    def folder(table: Table, version: str) -> str:
        """Return the folder of a version of a table."""
        return f"{table.name}/version={version}"

    def versions(self, table: Table) -> list[str]:
        """Return the versions of a table that hold at least one shard."""
        versions = [name.removeprefix("version=") for name in self.folders(table.name) if name.startswith("version=")]
        return [version for version in versions if self.shards(table, version)]

    def shards(self, table: Table, version: str) -> list[str]:
        """Return the names of a version's shards (a number, or the id of a record), numbers first and in order."""
        return self.shards_and_folders(table, version)[0]

    def shards_and_folders(self, table: Table, version: str) -> tuple[list[str], list[str]]:
        """Return the names of a version's shards and of the folders beside them, from one listing."""
        entries = self._entries(self.folder(table, version))
        files = [name for name, (kind, _) in entries.items() if kind == "file"]
        shards = sort_shards(match[1] for name in files if (match := SHARD_NAME.fullmatch(name)))
        return shards, [name for name, (kind, _) in entries.items() if kind == "directory"]

    def shard_path(self, table: Table, version: str, shard: str) -> str:
        """Return the place of a shard's file in the store."""
        return f"{self.folder(table, version)}/shard={shard}.parquet"

    def footer(self, table: Table, version: str, shard: str) -> Footer | None:
        """Return the footer of a shard; None if there is no such shard.

        Raises:
            ValueError: the file is not a shard that a store wrote.
            OSError: it could not be read.
        """
        return self.footer_of(self.shard_path(table, version, shard))

    def footer_of(self, relative: str) -> Footer | None:
        """Return the footer of a file with a shard's rows; None if there is no such file."""
        path = self.path(relative)
        try:
            if not self.is_local:
                return self._remote_footer(path)
            # A plan reads the same footers once for each stage.
            key = _file_key(path)
            if key not in self._footers:
                self._footers[key] = parse_footer(read_tail(self.filesystem, path), path)
            return self._footers[key]
        except FileNotFoundError:
            self._confirm_absent(relative)
            return None

    def _remote_footer(self, path: str) -> Footer:
        if self._remembered is None:
            return parse_footer(read_tail(self.filesystem, path), path)
        if path not in self._remembered:
            self._remembered[path] = parse_footer(read_tail(self.filesystem, path), path)
        return self._remembered[path]

    @contextmanager
    def remembering_footers(self) -> Iterator[None]:
        """Read each footer of an object store once within this block, in which nothing is written here: no look that
        takes less than reading it tells whether it is the same, as that at a local file does."""
        before = self._remembered
        self._remembered = {} if before is None else before
        try:
            yield
        finally:
            self._remembered = before

    def footers(self, table: Table, version: str) -> dict[str, Footer]:
        """Return the footer of each shard of a version, by the shard's name."""
        return self.footers_of({shard: self.shard_path(table, version, shard) for shard in self.shards(table, version)})

    def footers_of(self, files: Mapping[str, str]) -> dict[str, Footer]:
        """Return the footers of files with a shard's rows, by the same names as `files`; files that are not there are
        left out."""
        footers = zip(files, self._each(self.footer_of, list(files.values())), strict=True)
        return {name: footer for name, footer in footers if footer is not None}

    def column_bytes(self, relative: str) -> dict[str, int]:
        """Return how many bytes each column takes in a file with a shard's rows.

        Raises:
            ValueError: the file is not a shard that a store wrote.
            OSError: it could not be read, or is not there.
        """
        path = self.path(relative)
        return column_bytes(read_tail(self.filesystem, path), path)

    def column_digests(self, table: Table, version: str, shard: str) -> Mapping[str, str]:
        """Return the digest of each identity column of a shard; empty if there is no such shard. Files of early
        releases have no digests in their footer; theirs are computed from the rows, once."""
        footer = self.footer(table, version, shard)
        if footer is None or footer.columns:
            return footer.columns if footer else {}
        key = (self.shard_path(table, version, shard), footer.content)
        if key not in self._column_digests:
            self._column_digests[key] = column_digests(table, self.read(table, version, [shard]))
        return self._column_digests[key]

    def write_shard(
        self,
        table: Table,
        version: str,
        shard: str,
        rows: pa.Table,
        input_key: str,
        refused: int = 0,
    ) -> None:
        """Write or replace one shard, with its rows sorted by key.

        Raises:
            ValueError: the rows do not have the table's schema, or a key appears twice.
        """
        where = self.shard_path(table, version, shard)
        self.write_rows(where, table, rows, input_key, refused)

    def write_rows(
        self, where: str, table: Table, rows: pa.Table, input_key: str, refused: int = 0, passing: int = 0
    ) -> None:
        """Write or replace a file with rows of a table, encoded as a shard (`schemas.storage.shards`).

        Args:
            where: the file's path in the store.

        Raises:
            ValueError: the rows do not have the table's schema, or a key appears twice.
        """
        rows = written_addresses(table, rows, self.location() + "/")
        self.write_bytes(where, encode_shard(table, rows, input_key, where, refused, passing))

    def remove_shard(self, table: Table, version: str, shard: str) -> None:
        """Remove a shard's file, if it is there."""
        self.remove(self.shard_path(table, version, shard))

    def read(
        self,
        table: Table,
        version: str,
        shards: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Return the rows of a version, or of some of its shards, with the table's schema; no rows if it has no shards.

        Args:
            columns: the columns to read, all by default; `files.uri` reads a list of records with only the field
                `uri`.

        Raises:
            ValueError: a shard cannot be read as Parquet.
            OSError: a shard could not be read.
        """
        wanted = self.shards(table, version) if shards is None else shards
        return self.read_files(table, [self.shard_path(table, version, shard) for shard in wanted], columns)

    def read_files(self, table: Table, files: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of files of a table, with its schema; files that are not there give no rows.

        Args:
            columns: as in `read`.

        Raises:
            ValueError: a file cannot be read as Parquet.
            OSError: a file could not be read.
        """
        wanted = list(columns) if columns is not None else table.schema.names
        names = [*wanted, *(name for name in table.key if table.combined and name not in wanted)]
        schema = selected(table.schema, names)
        read = self._each(lambda relative: self._read_part(table, relative, schema, names), files)
        parts = [part for part in read if part is not None]
        if not parts:  # not `schema.empty_table()`, which loads pandas: that takes longer than all the rest of a plan
            return pa.Table.from_batches([], selected(table.schema, wanted))
        rows = distinct(table, parts).select(wanted) if table.combined else pa.concat_tables(parts)
        return read_addresses(table, rows, self.location() + "/")

    def _read_part(self, table: Table, relative: str, schema: pa.Schema, names: list[str]) -> pa.Table | None:
        """Return columns of one file of a table, in the given schema; None if the file is not there."""
        try:
            part = self._read_record(relative, names) if table.accumulates else self._read_file(relative, names)
        except FileNotFoundError:
            self._confirm_absent(relative)
            return None
        for name in set(schema.names) - set(part.schema.names):  # a file of a release without this column
            part = part.append_column(schema.field(name), pa.nulls(part.num_rows, schema.field(name).type))
        part = part.replace_schema_metadata(None).select(schema.names)
        # Even a cast to the same type loads all of Arrow's functions: an eighth of the time of `segue sql`.
        return part if part.schema.equals(schema) else part.cast(schema)

    def _read_record(self, relative: str, names: Sequence[str]) -> pa.Table:
        """Return columns of a file of records, as `_read_file` does. A run reads the same small files in each of its
        stages, and each query reads them twice, so files on a local disk are cached."""
        if not self.is_local:
            return self._read_file(relative, names)
        key = (_file_key(self.path(relative)), tuple(names))
        if key not in self._records:
            self._records[key] = self._read_file(relative, names)
        return self._records[key]

    def _read_file(self, relative: str, names: Sequence[str]) -> pa.Table:
        """Return columns of a file as `parse_rows` does, and cache the file's footer."""
        path = self.path(relative)
        key = _file_key(path) if self.is_local else None
        part = parse_rows(self.read_bytes(relative), names, path)
        if key is not None and key not in self._footers and (footer := footer_of_rows(part)):
            self._footers[key] = footer
        return part

    def _each(self, read: Callable[[str], Part], files: Sequence[str]) -> list[Part]:
        """Return what `read` gives for each file, in order; the first error ends the reading."""
        # A filesystem that is not asynchronous may have one connection, which two threads must not use at once.
        if not self.filesystem.async_impl or len(files) < 2:
            return [read(file) for file in files]
        threads = ThreadPoolExecutor(min(AT_ONCE, len(files)))
        try:
            return list(threads.map(read, files))
        finally:
            threads.shutdown(cancel_futures=True)

    def read_all(self, table: Table, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of every version of a table; meant for records, which accumulate."""
        names = list(columns) if columns is not None else table.schema.names
        empty = pa.Table.from_batches([], pa.schema([table.schema.field(name) for name in names]))
        return pa.concat_tables(
            [empty, *(self.read(table, version, columns=names) for version in self.versions(table))]
        )


def _file_key(path: str) -> _FileKey:
    """Return a key that distinguishes a local file from one that replaced it."""
    state = os.stat(path)
    return path, state.st_ino, state.st_mtime_ns
