"""Inspection: whether everything in a store is whole and where the rows say, and what to do about what is not.

Normally only the keys of shards and the columns that name files are read, which finds files that cannot be read. A deep
inspection reads every byte, so it also finds flipped bits behind an intact footer and in files that rows name.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.identity import keys_digest
from schemas.storage.holdings import (
    Holding,
    foreign_files,
    holdings,
    leftovers,
    named_files,
    unnamed_files,
    versions_of,
)
from schemas.storage.publications import Publications
from schemas.storage.row_files import absent_files, file_columns
from schemas.storage.shards import Footer, data_digest, output_keys, row_keys
from schemas.storage.store import Store
from schemas.storage.take_downs import HIDDEN_BY, TakeDowns
from schemas.storage.versions import Versions
from schemas.tables import CHECKPOINTS, PUBLISHED, TABLES, FileColumns, Row, Table
from schemas.weights import folder_digest

DAMAGED = "damaged"
"""The folder of the store to which damaged files are moved, under their former paths."""

MADE = {*PUBLISHED, CHECKPOINTS.name}
"""Names of the tables whose shards a run makes again if they are gone."""

REPAIR = "`segue check --repair` sets it aside"


@dataclass(frozen=True)
class Finding:
    """A fault in a store, and what to do about it."""

    path: str
    """The file or folder of the store with the fault."""
    what: str
    cure: str
    is_problem: bool = True
    """Whether rows or files are damaged or gone; otherwise something is merely in the way or out of date."""
    to_set_aside: bool = False
    """Whether the file is damaged and the next run makes it again once it is moved away."""


class Inspection:
    """An inspection of some tables of a store, which counts the shards, rows and files that it looked at.

    Args:
        tables: the tables to inspect.
        drivers: the name of the table whose shards each table is made from, by the table's name.
        deep: whether to read every byte.
    """

    def __init__(self, store: Store, tables: Sequence[Table], drivers: Mapping[str, str], deep: bool = False) -> None:
        self._store, self._tables, self._drivers, self._deep = store, tables, drivers, deep
        self._publications, self._versions = Publications(store), Versions(store)
        self._take_downs = TakeDowns(store)
        self.shards = self.rows = self.files = 0

    def findings(self) -> Iterator[Finding]:
        """Yield every fault."""
        named: set[str] = set()
        for table in self._tables:
            for path, size in foreign_files(self._store, table).items():
                yield Finding(
                    path, f"a file of {size:,} bytes that does not belong to the store", "move it away", False
                )
            published: list[pa.Table] = []
            for version in versions_of(self._store, table):
                yield from self._version(table, version, named, published)
            if published:
                yield from self._files(table, self._take_downs.hidden.shown(table, pa.concat_tables(published)))
            if table.name in PUBLISHED:
                yield from self._shown(table)
        if len(self._tables) == len(TABLES):  # unnamed files are known only once all rows were read
            cure = "`segue clean` removes it"
            for path, size in unnamed_files(self._store, named).items():
                yield Finding(path, f"a file of {size:,} bytes that no row names", cure, False)
            for path, size in leftovers(self._store).items():
                yield Finding(path, f"{size:,} bytes left by a killed run", cure, False)

    def _version(self, table: Table, version: str, named: set[str], published: list[pa.Table]) -> Iterator[Finding]:
        """Inspect every file with rows of a version, and append the published rows to `published`."""
        shard_of: dict[tuple[str, ...], str] = {}
        for holding in holdings(self._store, table, version):
            try:
                footer = self._store.footer_of(holding.path)
                if footer is None:  # a run replaced it meanwhile
                    continue
                rows = self._rows(holding, footer)
            except ValueError as error:
                yield _damaged(holding, f"damaged ({error})")
                continue
            self.shards, self.rows = self.shards + 1, self.rows + footer.rows
            named |= named_files(table, rows)
            if holding.kind != "published":
                continue
            keys = row_keys(rows, table.key)
            # A kill while records were merged may leave them twice; readers count them once.
            twice = [key for key in keys if key in shard_of] if table.name in MADE else []
            if twice:
                key = "/".join(twice[0])
                yield _damaged(holding, f"{len(twice)} of its keys are in shard {shard_of[twice[0]]} too, first {key}")
            shard_of |= dict.fromkeys(keys, holding.shard)
            published.append(rows)
            yield from self._input(holding, footer)

    def _rows(self, holding: Holding, footer: Footer) -> pa.Table:
        """Return the columns of a file that the inspection needs.

        Raises:
            ValueError: the file is not what its footer says, or cannot be read.
        """
        table = holding.table
        if self._deep and footer.data_digest:
            digest = data_digest(self._store.read_bytes(holding.path)[: footer.data_bytes])
            if digest != footer.data_digest:
                raise ValueError(f"expected bytes with the digest {footer.data_digest}, got {digest}")
        digests = [name for columns in table.files for name in (columns.sha256, columns.folder_digest) if name]
        copies = [table.copies] if table.copies else []
        hiding = HIDDEN_BY.get(table.name, ())
        rows = _read_columns(self._store, table, holding.path, [*file_columns(table), *digests, *copies, *hiding])
        keys = keys_digest(output_keys(table, rows))
        if keys != footer.output_key:
            raise ValueError(f"expected rows with the keys digest {footer.output_key}, got {keys}")
        return rows

    def _input(self, holding: Holding, footer: Footer) -> Iterator[Finding]:
        """Compare the keys that a shard was made from with those of the shard it would be made from now."""
        driver = self._drivers.get(holding.table.name)
        if driver is None or self._passed.get(holding.table.name) != holding.version:
            return  # superseded, so nothing keeps it up to date
        try:
            version = self._versions.all.get(holding.version)
            if version is None or driver not in version.inputs:
                return
            read = self._store.footer(TABLES[driver], version.inputs[driver], holding.shard)
        except ValueError:
            return  # reported when that table is inspected
        if read is None or read.output_key != footer.input_key:
            what = f"made from other rows than {driver} has in shard {holding.shard} now"
            yield Finding(holding.path, what, "the next run makes it again", False)

    def _shown(self, table: Table) -> Iterator[Finding]:
        """Yield faults in what the view of a table shows, compared with its publication."""
        try:
            record = self._publications.shown().get(table.name)
        except ValueError:
            return  # reported when publications are inspected
        if record is None:
            return
        files = self._publications.files_of(table, record)
        for file, shard in zip(files, record.shards[table.name], strict=True):
            try:
                footer = self._store.footer_of(file)
            except ValueError:
                continue  # reported when its version is inspected
            if footer is None or footer.data_digest != shard.digest:
                state = "is missing" if footer is None else "has other rows"
                what = f"publication {record.sequence} shows this shard, which {state}"
                yield Finding(file, what, "the next run with its settings makes it again")

    @cached_property
    def _passed(self) -> Mapping[str, str]:
        """The version of each table that passed last, by the table's name."""
        try:
            latest = self._publications.latest()
            passed = latest.passed.items() if latest else ()
            return {name: self._publications.record(number).versions[name] for name, number in passed}
        except ValueError:  # reported when publications are inspected
            return {}

    # -- files that rows name -----------------------------------------------------------------------------------------

    def _files(self, table: Table, rows: pa.Table) -> Iterator[Finding]:
        """Yield faults in the files that rows name. A file is correct if it is as any one of its rows says."""
        for columns in table.files:
            rows_of: dict[str, list[Row]] = {}
            problems: dict[str, list[str]] = {}
            absent = absent_files(self._store, replace(table, files=(columns,)), rows)
            for row, problem in zip(rows.to_pylist(), absent, strict=True):
                if row[columns.path] is not None:
                    rows_of.setdefault(row[columns.path], []).append(row)
                    problems.setdefault(row[columns.path], []).append(problem)
            self.files += len(rows_of)
            for path, row_problems in problems.items():
                if all(row_problems):
                    what = row_problems[-1].removeprefix(f"{path} ")
                    yield Finding(path, what, "the next run with its settings makes it again")
                elif self._deep and (what := self._other_content(columns, rows_of[path])):
                    yield Finding(path, what, f"{REPAIR}, and the next run makes it again", to_set_aside=True)

    def _other_content(self, columns: FileColumns, rows: Sequence[Row]) -> str:
        """Return a sentence if a file or folder has none of the digests in the rows that name it; empty if it has one
        of them, or if no row has a digest."""
        name = columns.sha256 or columns.folder_digest
        expected = {row[name] for row in rows if row[name]} if name else set()
        if not expected:
            return ""
        path = rows[0][columns.path]
        if columns.sha256:
            digest = hashlib.sha256(self._store.read_bytes(path)).hexdigest()
        elif self._store.is_local:
            digest = folder_digest(self._store.local(path))
        else:  # not from the cache, which may hold an earlier copy of the folder
            with tempfile.TemporaryDirectory(prefix="segue-check-") as copy:
                self._store.filesystem.get(self._store.path(path), f"{copy}/folder", recursive=True)
                digest = folder_digest(Path(copy) / "folder")
        return "" if digest in expected else f"other bytes than were written (SHA-256 {digest[:16]}…)"


def set_aside(store: Store, path: str) -> str:
    """Move a damaged file or folder to the store's folder `damaged`, and return its new path."""
    target = f"{DAMAGED}/{path}"
    store.remove(target)
    if store.is_local:
        store.move(path, target)
    else:
        store.filesystem.mv(store.path(path), store.path(target), recursive=True)
    return target


def _damaged(holding: Holding, what: str) -> Finding:
    """Return the finding about a damaged file with rows, with what happens once it is set aside."""
    after = {
        "published": ", and the next run makes it again" if holding.table.name in MADE else "; what it records is lost",
        "draft": ", and the next run makes it again",
        "part": ", and the next run makes those rows again",
        "history": "; the catalogs that showed it cannot be taken back",
    }
    return Finding(holding.path, what, REPAIR + after[holding.kind], to_set_aside=True)


def _read_columns(store: Store, table: Table, path: str, names: Sequence[str]) -> pa.Table:
    """Return the named columns of a file with rows, reading no others.

    Raises:
        ValueError: the file cannot be read as Parquet, or has columns of other types.
        OSError: it could not be read.
    """
    names = list(dict.fromkeys(names))
    try:
        with store.filesystem.open(store.path(path)) as file:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            for field in parquet.schema_arrow:
                if field.name in table.schema.names and field.type != table.schema.field(field.name).type:
                    expected = table.schema.field(field.name).type
                    raise ValueError(f"expected {field.name} of the type {expected}, got {field.type}")
            if set(names) <= set(parquet.schema_arrow.names):
                return parquet.read(columns=names).select(names)
    except (pa.ArrowException, OSError):
        pass  # `read_files` below tells whether the file or the disk is at fault
    return store.read_files(table, [path], names)
