"""The store: tables as Parquet shards, and files, under one fsspec URL.

One file a shard, replaced atomically: on a local disk a temporary name that no `*.parquet` glob matches, fsync, rename;
on an object store one PUT. A shard's footer holds `input_key`, the identity of the keys that it was made from, so
that it is done if and only if that matches: there are no markers, and marker and data cannot disagree.
"""

import hashlib
import io
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from schemas.content import content_digest, row_keys
from schemas.footer import Footer, footer_of
from schemas.identity import keys_digest
from schemas.replacing import replace_file, replace_folder
from schemas.table import Table

STALE_SECONDS = 3600.0
"""Age after which a temporary file is the remains of a killed run, rather than another run's work."""


class Store:
    """Tables and files under `url`: a local folder or any fsspec URL (`s3://…`, `gs://…`, `memory://…`).

    Raises:
        ValueError: nothing that is installed can open such a URL.
    """

    def __init__(self, url: str) -> None:
        try:
            self.filesystem, root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise ValueError(
                f"expected a folder or a URL that can be opened as the store, got {url!r}: {error}"
            ) from error
        self.root = root.rstrip("/")
        self.url = self.filesystem.unstrip_protocol(self.root)
        self.is_local = isinstance(self.filesystem, LocalFileSystem)
        self._footers: dict[tuple[str, int, int], Footer] = {}

    def check_writable(self) -> None:
        """Write a file and remove it again: hours of work are not to end with the first shard that cannot be kept.

        Raises:
            ValueError: the store cannot be written; the message says why.
        """
        probe = f".{uuid.uuid4().hex}.inprogress"
        try:
            self.write_bytes(probe, b"")
            self.remove(probe)
        except OSError as error:
            raise ValueError(f"expected a store that can be written, got {self.url}: {error}") from error

    # -- files ----------------------------------------------------------------------------------------------------

    def path(self, relative: str) -> str:
        """The filesystem's path of a place inside the store.

        Raises:
            ValueError: the place would lie outside the store.
        """
        parts = PurePosixPath(relative).parts
        if not parts or parts[0] == "/" or ".." in parts or "\\" in relative or "\0" in relative:
            raise ValueError(f"expected a relative path inside the store, got {relative!r}")
        return f"{self.root}/{'/'.join(parts)}"

    def exists(self, relative: str) -> bool:
        return bool(self.filesystem.exists(self.path(relative)))

    def files(self, folder: str) -> list[str]:
        """The names of the files right under `folder`, sorted; none if it is not there. Never from a cache."""
        path = self.path(folder)
        self.filesystem.invalidate_cache(path)
        try:
            entries = self.filesystem.ls(path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(entry["name"].rsplit("/", 1)[-1] for entry in entries if entry["type"] == "file")

    def folders(self, folder: str) -> list[str]:
        """The names of the folders right under `folder`, sorted; none if it is not there."""
        path = self.path(folder)
        self.filesystem.invalidate_cache(path)
        try:
            entries = self.filesystem.ls(path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry["type"] == "directory")

    def read_bytes(self, relative: str) -> bytes:
        return bytes(self.filesystem.cat_file(self.path(relative)))

    def write_bytes(self, relative: str, data: bytes) -> None:
        """Write a file so that it is there whole or not at all."""
        path = self.path(relative)
        if self.is_local:
            replace_file(path, data)
        else:
            self.filesystem.pipe_file(path, data)

    def remove(self, relative: str) -> None:
        path = self.path(relative)
        if self.filesystem.exists(path):
            self.filesystem.rm(path, recursive=True)

    @contextmanager
    def new_folder(self, relative: str) -> Iterator[Path]:
        """A local folder to fill; when the block ends without an error it stands, whole, at `relative`.

        On an object store its files are uploaded one by one, so a row that names the folder must be written after it.
        """
        target = self.path(relative)
        if self.is_local:
            temporary = Path(f"{target}.{uuid.uuid4().hex}.inprogress")
        else:
            temporary = cache_folder() / "staging" / uuid.uuid4().hex
        temporary.mkdir(parents=True)
        try:
            yield temporary
            if self.is_local:
                replace_folder(temporary, Path(target))
            else:
                for file in sorted(temporary.rglob("*")):
                    if file.is_file():
                        place = f"{target}/{file.relative_to(temporary).as_posix()}"
                        self.filesystem.pipe_file(place, file.read_bytes())
        finally:
            if temporary.exists():
                LocalFileSystem().rm(str(temporary), recursive=True)

    def local(self, relative: str) -> Path:
        """A file or folder of the store as a local path: itself on a local disk, else a copy in the user's cache."""
        path = self.path(relative)
        if self.is_local:
            return Path(path)
        target = cache_folder() / "stores" / hashlib.sha256(f"{self.url}/{relative}".encode()).hexdigest()[:16]
        if not target.exists():
            temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}.inprogress")
            temporary.parent.mkdir(parents=True, exist_ok=True)
            self.filesystem.get(path, str(temporary), recursive=bool(self.filesystem.isdir(path)))
            os.replace(temporary, target)
        return target

    # -- tables ---------------------------------------------------------------------------------------------------

    @staticmethod
    def folder(table: Table, version: str) -> str:
        return f"{table.name}/version={version}"

    def versions(self, table: Table) -> list[str]:
        """The versions of a table that hold at least one shard."""
        found = [name.removeprefix("version=") for name in self.folders(table.name) if name.startswith("version=")]
        return [version for version in found if self.shards(table, version)]

    def shards(self, table: Table, version: str) -> list[str]:
        """The names of a version's shards (numbers, or for a record its id), numbers in their order."""
        names = [name for name in self.files(self.folder(table, version)) if name.endswith(".parquet")]
        shards = [name.removeprefix("shard=").removesuffix(".parquet") for name in names]
        return sorted(shards, key=lambda shard: (0, int(shard), "") if shard.isdecimal() else (1, 0, shard))

    def shard_path(self, table: Table, version: str, shard: str) -> str:
        return f"{self.folder(table, version)}/shard={shard}.parquet"

    def footer(self, table: Table, version: str, shard: str) -> Footer | None:
        """The footer of a shard, or None where there is no such shard.

        Raises:
            ValueError: the file is not a shard that this store wrote.
        """
        path = self.path(self.shard_path(table, version, shard))
        try:
            if not self.is_local:
                with self.filesystem.open(path, "rb", cache_type="readahead") as file:
                    return footer_of(pq.read_metadata(file), path)
            # A plan asks for the same footers once a stage. A file that was replaced is another one by these three.
            state = os.stat(path)
            place = (path, state.st_ino, state.st_mtime_ns)
            if place not in self._footers:
                with pa.OSFile(path) as file:
                    self._footers[place] = footer_of(pq.read_metadata(file), path)
            return self._footers[place]
        except FileNotFoundError:
            return None
        except (pa.ArrowInvalid, OSError) as error:
            raise _unreadable(path, error) from error

    def write_shard(
        self, table: Table, version: str, shard: str, rows: pa.Table, input_key: str, refused: int = 0
    ) -> None:
        """Write or replace one shard, its rows sorted by key.

        Raises:
            ValueError: the rows do not have the table's schema, or a key stands twice.
        """
        if rows.schema.names != table.schema.names:
            raise ValueError(f"expected the columns {table.schema.names} for {table.name}, got {rows.schema.names}")
        rows = rows.cast(table.schema).sort_by([(name, "ascending") for name in table.key]).combine_chunks()
        keys = row_keys(rows, table.key)
        if len(set(keys)) != len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"expected each key of {table.name} once, got {twice} twice in shard {shard}")
        metadata = {
            "input_key": input_key,
            "output_key": keys_digest(keys),
            "content": content_digest(table, rows),
            "refused": str(refused),
        }
        buffer = io.BytesIO()
        pq.write_table(rows.replace_schema_metadata(metadata), buffer, compression="zstd")
        self.write_bytes(self.shard_path(table, version, shard), buffer.getvalue())

    def remove_shard(self, table: Table, version: str, shard: str) -> None:
        self.remove(self.shard_path(table, version, shard))

    def read(
        self,
        table: Table,
        version: str,
        shards: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """The rows of a version (of some of its shards), with the table's schema; no rows where there is no shard.

        Raises:
            ValueError: a shard cannot be read as Parquet.
        """
        wanted = self.shards(table, version) if shards is None else shards
        names = list(columns) if columns is not None else table.schema.names
        schema = pa.schema([table.schema.field(name) for name in names])
        parts = []
        for shard in wanted:
            try:
                data = self.read_bytes(self.shard_path(table, version, shard))
            except FileNotFoundError:
                continue
            try:
                file = pq.ParquetFile(pa.BufferReader(data))
            except (pa.ArrowInvalid, OSError) as error:
                raise _unreadable(self.path(self.shard_path(table, version, shard)), error) from error
            part = file.read(columns=[name for name in names if name in file.schema_arrow.names])
            for name in set(names) - set(part.schema.names):  # a file of an earlier release, which lacked the column
                part = part.append_column(schema.field(name), pa.nulls(part.num_rows, schema.field(name).type))
            parts.append(part.replace_schema_metadata(None).select(names).cast(schema))
        # Not `schema.empty_table()`: that loads pandas, which takes a plan longer than all the rest.
        return pa.concat_tables(parts) if parts else pa.Table.from_batches([], schema)

    def read_all(self, table: Table, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of every version: for records, which accumulate."""
        names = list(columns) if columns is not None else table.schema.names
        empty = pa.Table.from_batches([], pa.schema([table.schema.field(name) for name in names]))
        return pa.concat_tables(
            [empty, *(self.read(table, version, columns=names) for version in self.versions(table))]
        )

    def sweep(self, folder: str) -> None:
        """Remove the temporary files that killed runs left right under `folder`, once they are an hour old."""
        if not self.is_local or not os.path.isdir(self.path(folder)):
            return
        for entry in os.scandir(self.path(folder)):
            if entry.name.endswith(".inprogress") and time.time() - entry.stat().st_mtime > STALE_SECONDS:
                self.filesystem.rm(entry.path, recursive=True)


def cache_folder() -> Path:
    """Where copies of remote files lie on this machine (`$XDG_CACHE_HOME/segue`, by default `~/.cache/segue`)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segue"


def _unreadable(path: str, error: Exception) -> ValueError:
    return ValueError(
        f"expected a Parquet shard at {path}, got a file that cannot be read: {error}; if it is damaged, remove it: "
        "the next run makes it anew"
    )
