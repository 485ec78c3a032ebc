"""The store: tables as Parquet shards, beside files, under one fsspec URL (`schemas.storage.file_store`).

One file a shard, replaced atomically. Its footer holds `input_key`, the identity of the keys that it was made from, so
that it is done if and only if that matches: there are no markers, and marker and data cannot disagree.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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
"""A path, an inode, and when it was written, in nanoseconds."""

Part = TypeVar("Part")

AT_ONCE = 8
"""Files that are read at once of an object store, where each is a request that waits. On a disk threads gain nothing:
what Arrow does at once they lose by taking turns with Python."""


class Store(FileStore):
    """Tables and files under `url`: a local folder or any fsspec URL (`s3://…`, `gs://…`, `memory://…`).

    Raises:
        ValueError: nothing that is installed can open such a URL.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._footers: dict[_FileKey, Footer] = {}
        self._column_digests: dict[tuple[str, str], Mapping[str, str]] = {}
        self._records: dict[tuple[_FileKey, tuple[str, ...]], pa.Table] = {}

    def absence(self) -> str:
        """Return what lies here in place of a store that a run has begun, in words that follow `got`; empty where one
        lies here."""
        if not self.filesystem.exists(self.root):
            return "nothing there"
        if self.exists(IDENTITY) or any(map(self.versions, (RUNS, PUBLICATIONS))):
            return ""
        what = "a folder of something else" if self.files("") or self.folders("") else "an empty folder"
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
        """Return the names of a version's shards (numbers, or for a record its id), numbers in their order."""
        return self.shards_and_folders(table, version)[0]

    def shards_and_folders(self, table: Table, version: str) -> tuple[list[str], list[str]]:
        """Return the names of a version's shards, and of the folders beside them, by one look."""
        entries = self._entries(self.folder(table, version))
        files = [name for name, (kind, _) in entries.items() if kind == "file"]
        shards = sort_shards(match[1] for name in files if (match := SHARD_NAME.fullmatch(name)))
        return shards, [name for name, (kind, _) in entries.items() if kind == "directory"]

    def shard_path(self, table: Table, version: str, shard: str) -> str:
        """Return the place of a shard's file in the store."""
        return f"{self.folder(table, version)}/shard={shard}.parquet"

    def footer(self, table: Table, version: str, shard: str) -> Footer | None:
        """Return the footer of a shard, or None where there is no such shard.

        Raises:
            ValueError: the file is not a shard that this store wrote.
            OSError: it could not be read.
        """
        return self.footer_of(self.shard_path(table, version, shard))

    def footer_of(self, relative: str) -> Footer | None:
        """Return the footer of a file with a shard's rows, or None where there is no such file."""
        path = self.path(relative)
        try:
            if not self.is_local:
                return parse_footer(read_tail(self.filesystem, path), path)
            # A plan asks for the same footers once a stage.
            key = _file_key(path)
            if key not in self._footers:
                self._footers[key] = parse_footer(read_tail(self.filesystem, path), path)
            return self._footers[key]
        except FileNotFoundError:
            self._confirm_absent(relative)
            return None

    def footers(self, table: Table, version: str) -> dict[str, Footer]:
        """Return the footer of each shard of a version, by its name."""
        return self.footers_of({shard: self.shard_path(table, version, shard) for shard in self.shards(table, version)})

    def footers_of(self, files: Mapping[str, str]) -> dict[str, Footer]:
        """Return the footers of files with shards' rows, by the names under which the files are given; of those that
        are not there, none."""
        footers = zip(files, self._each(self.footer_of, list(files.values())), strict=True)
        return {name: footer for name, footer in footers if footer is not None}

    def column_bytes(self, relative: str) -> dict[str, int]:
        """Return how many bytes of a file with a shard's rows each of its columns takes.

        Raises:
            ValueError: the file is not a shard that this store wrote.
            OSError: it could not be read, or is not there.
        """
        path = self.path(relative)
        return column_bytes(read_tail(self.filesystem, path), path)

    def column_digests(self, table: Table, version: str, shard: str) -> Mapping[str, str]:
        """Return the digest of each identity column of a shard, none where there is no such shard. Of a file of an
        earlier release, whose footer has none, they are computed from its rows once."""
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
        """Write or replace one shard, its rows sorted by key.

        Raises:
            ValueError: the rows do not have the table's schema, or a key stands twice.
        """
        where = self.shard_path(table, version, shard)
        self.write_rows(where, table, rows, input_key, refused)

    def write_rows(
        self, where: str, table: Table, rows: pa.Table, input_key: str, refused: int = 0, passing: int = 0
    ) -> None:
        """Write or replace a file with rows of a table, as a shard is encoded (`schemas.storage.shards`).

        Raises:
            ValueError: the rows do not have the table's schema, or a key stands twice.
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
        """Return the rows of a version (of some of its shards) with the table's schema; none where there is no shard.

        Args:
            columns: those that are read, all by default; `files.uri` is a field of a list of records, and stands for
                lists of records of that field alone.

        Raises:
            ValueError: a shard cannot be read as Parquet.
            OSError: a shard could not be read.
        """
        wanted = self.shards(table, version) if shards is None else shards
        return self.read_files(table, [self.shard_path(table, version, shard) for shard in wanted], columns)

    def read_files(self, table: Table, files: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of files with rows of a table, with its schema; of those that are not there, none.

        Args:
            columns: as `read` takes them.

        Raises:
            ValueError: a file cannot be read as Parquet.
            OSError: a file could not be read.
        """
        wanted = list(columns) if columns is not None else table.schema.names
        names = [*wanted, *(name for name in table.key if table.combined and name not in wanted)]
        schema = selected(table.schema, names)
        read = self._each(lambda relative: self._read_part(table, relative, schema, names), files)
        parts = [part for part in read if part is not None]
        if not parts:  # not `schema.empty_table()`: that loads pandas, which takes a plan longer than all the rest
            return pa.Table.from_batches([], selected(table.schema, wanted))
        rows = distinct(table, parts).select(wanted) if table.combined else pa.concat_tables(parts)
        return read_addresses(table, rows, self.location() + "/")

    def _read_part(self, table: Table, relative: str, schema: pa.Schema, names: list[str]) -> pa.Table | None:
        """Return columns of one file with a table's rows, in a schema; None where it is not there."""
        try:
            part = self._read_record(relative, names) if table.accumulates else self._read_file(relative, names)
        except FileNotFoundError:
            self._confirm_absent(relative)
            return None
        for name in set(schema.names) - set(part.schema.names):  # a file of a release that lacked the column
            part = part.append_column(schema.field(name), pa.nulls(part.num_rows, schema.field(name).type))
        part = part.replace_schema_metadata(None).select(schema.names)
        # A cast, even to what it is, loads all of Arrow's functions: an eighth of the time of `segue sql`.
        return part if part.schema.equals(schema) else part.cast(schema)

    def _read_record(self, relative: str, names: Sequence[str]) -> pa.Table:
        """Return columns of a file of records, as `_read_file` does. A run asks for the same small ones at each of its
        stages, and each query for them twice, so that on a local disk they are read once."""
        if not self.is_local:
            return self._read_file(relative, names)
        key = (_file_key(self.path(relative)), tuple(names))
        if key not in self._records:
            self._records[key] = self._read_file(relative, names)
        return self._records[key]

    def _read_file(self, relative: str, names: Sequence[str]) -> pa.Table:
        """Return columns of a file as `parse_rows` does. Its footer is known from then on."""
        path = self.path(relative)
        key = _file_key(path) if self.is_local else None
        part = parse_rows(self.read_bytes(relative), names, path)
        if key is not None and key not in self._footers and (footer := footer_of_rows(part)):
            self._footers[key] = footer
        return part

    def _each(self, read: Callable[[str], Part], files: Sequence[str]) -> list[Part]:
        """Return what a function gives for each file, in their order; the first error ends the reading."""
        # The others may have one connection, which two threads must not use at once.
        if not self.filesystem.async_impl or len(files) < 2:
            return [read(file) for file in files]
        threads = ThreadPoolExecutor(min(AT_ONCE, len(files)))
        try:
            return list(threads.map(read, files))
        finally:
            threads.shutdown(cancel_futures=True)

    def read_all(self, table: Table, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of every version: for records, which accumulate."""
        names = list(columns) if columns is not None else table.schema.names
        empty = pa.Table.from_batches([], pa.schema([table.schema.field(name) for name in names]))
        return pa.concat_tables(
            [empty, *(self.read(table, version, columns=names) for version in self.versions(table))]
        )


def _file_key(path: str) -> _FileKey:
    """Return what tells a local file from one that replaced it."""
    state = os.stat(path)
    return path, state.st_ino, state.st_mtime_ns
