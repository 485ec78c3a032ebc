"""Inspection: whether everything in a store is whole and where the rows say, and what to do about what is not.

Shards are read as far as their keys, which finds what cannot be read; a deep inspection reads every byte, and so finds
bits that turned behind a whole footer and in the files that rows name.
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
"""The folder of the store in which damaged files are set aside, under the paths that they had."""

MADE = {*PUBLISHED, CHECKPOINTS.name}
"""The tables whose shards a run makes again once they are gone."""

REPAIR = "`segue check --repair` sets it aside"


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be."""

    path: str
    """The file or folder of the store that it is about."""
    what: str
    cure: str
    is_problem: bool = True
    """Rows or files are damaged or gone, rather than something in the way."""
    to_set_aside: bool = False
    """It is damaged: once it is out of the way, the next run makes it again."""


class Inspection:
    """One look at some tables of a store, which counts what it has looked at.

    Args:
        tables: those to look at.
        drivers: the table whose shards each table is made from, by name.
        deep: whether every byte is read.
    """

    def __init__(self, store: Store, tables: Sequence[Table], drivers: Mapping[str, str], deep: bool = False) -> None:
        self._store, self._tables, self._drivers, self._deep = store, tables, drivers, deep
        self._publications, self._versions = Publications(store), Versions(store)
        self._take_downs = TakeDowns(store)
        self.shards = self.rows = self.files = 0

    def findings(self) -> Iterator[Finding]:
        """Yield whatever is not as it should be."""
        named: set[str] = set()
        for table in self._tables:
            for path, size in foreign_files(self._store, table).items():
                yield Finding(path, f"a file of {size:,} bytes that is not the store's", "move it away", False)
            published: list[pa.Table] = []
            for version in versions_of(self._store, table):
                yield from self._version(table, version, named, published)
            if published:
                yield from self._files(table, self._take_downs.hidden.shown(table, pa.concat_tables(published)))
            if table.name in PUBLISHED:
                yield from self._shown(table)
        if len(self._tables) == len(TABLES):  # what no row names is known once all rows are
            cure = "`segue clean` removes it"
            for path, size in unnamed_files(self._store, named).items():
                yield Finding(path, f"a file of {size:,} bytes that no row names", cure, False)
            for path, size in leftovers(self._store).items():
                yield Finding(path, f"{size:,} bytes that a killed run left", cure, False)

    def _version(self, table: Table, version: str, named: set[str], published: list[pa.Table]) -> Iterator[Finding]:
        """Look at every file with rows of a version, and put the rows that are published into `published`."""
        shard_of: dict[tuple[str, ...], str] = {}
        for holding in holdings(self._store, table, version):
            try:
                footer = self._store.footer_of(holding.path)
                if footer is None:  # a run has put another in its place
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
            # Records may be there twice after a kill while they were put together; readers count them once.
            twice = [key for key in keys if key in shard_of] if table.name in MADE else []
            if twice:
                key = "/".join(twice[0])
                yield _damaged(holding, f"{len(twice)} of its keys are in shard {shard_of[twice[0]]} too, first {key}")
            shard_of |= dict.fromkeys(keys, holding.shard)
            published.append(rows)
            yield from self._input(holding, footer)

    def _rows(self, holding: Holding, footer: Footer) -> pa.Table:
        """Return those columns of a file with rows that are looked at.

        Raises:
            ValueError: the file is not what its footer says, or cannot be read.
        """
        table = holding.table
        if self._deep and footer.data_digest:
            digest = data_digest(self._store.read_bytes(holding.path)[: footer.data_bytes])
            if digest != footer.data_digest:
                raise ValueError(f"expected bytes of the digest {footer.data_digest}, got {digest}")
        digests = [name for columns in table.files for name in (columns.sha256, columns.folder_digest) if name]
        copies = [table.copies] if table.copies else []
        hiding = HIDDEN_BY.get(table.name, ())
        rows = _read_columns(self._store, table, holding.path, [*file_columns(table), *digests, *copies, *hiding])
        keys = keys_digest(output_keys(table, rows))
        if keys != footer.output_key:
            raise ValueError(f"expected rows of the keys {footer.output_key}, got {keys}")
        return rows

    def _input(self, holding: Holding, footer: Footer) -> Iterator[Finding]:
        """Compare what a shard was made from with what is there to make it from now."""
        driver = self._drivers.get(holding.table.name)
        if driver is None or self._passed.get(holding.table.name) != holding.version:
            return  # superseded, so nothing keeps it up to date
        try:
            version = self._versions.all.get(holding.version)
            if version is None or driver not in version.inputs:
                return
            read = self._store.footer(TABLES[driver], version.inputs[driver], holding.shard)
        except ValueError:
            return  # told where that table is looked at
        if read is None or read.output_key != footer.input_key:
            what = f"made from other rows than {driver} has in shard {holding.shard} now"
            yield Finding(holding.path, what, "the next run makes it anew", False)

    def _shown(self, table: Table) -> Iterator[Finding]:
        """See that what the view shows is there as it was published."""
        try:
            record = self._publications.shown().get(table.name)
        except ValueError:
            return  # told where publications are looked at
        if record is None:
            return
        files = self._publications.files_of(table, record)
        for file, shard in zip(files, record.shards[table.name], strict=True):
            try:
                footer = self._store.footer_of(file)
            except ValueError:
                continue  # told where its version is looked at
            if footer is None or footer.data_digest != shard.digest:
                state = "not there" if footer is None else "another one"
                what = f"publication {record.sequence} shows this shard, and it is {state}"
                yield Finding(file, what, "the next run with its settings makes it anew")

    @cached_property
    def _passed(self) -> Mapping[str, str]:
        """The version of each table that passed last, by the table's name."""
        try:
            latest = self._publications.latest()
            passed = latest.passed.items() if latest else ()
            return {name: self._publications.record(number).versions[name] for name, number in passed}
        except ValueError:  # told where publications are looked at
            return {}

    # -- files that rows name -----------------------------------------------------------------------------------------

    def _files(self, table: Table, rows: pa.Table) -> Iterator[Finding]:
        """See that the files that rows name are there, as one of the rows that name them says."""
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
                    yield Finding(path, what, "the next run with its settings makes it anew")
                elif self._deep and (what := self._other_content(columns, rows_of[path])):
                    yield Finding(path, what, f"{REPAIR}, and the next run makes it anew", to_set_aside=True)

    def _other_content(self, columns: FileColumns, rows: Sequence[Row]) -> str:
        """Say that a file or folder has not the digest of any row that names it; empty if it has, or no row says."""
        name = columns.sha256 or columns.folder_digest
        expected = {row[name] for row in rows if row[name]} if name else set()
        if not expected:
            return ""
        path = rows[0][columns.path]
        if columns.sha256:
            digest = hashlib.sha256(self._store.read_bytes(path)).hexdigest()
        elif self._store.is_local:
            digest = folder_digest(self._store.local(path))
        else:  # not by the cache, which may hold what the folder was
            with tempfile.TemporaryDirectory(prefix="segue-check-") as copy:
                self._store.filesystem.get(self._store.path(path), f"{copy}/folder", recursive=True)
                digest = folder_digest(Path(copy) / "folder")
        return "" if digest in expected else f"other bytes than were written (SHA-256 {digest[:16]}…)"


def set_aside(store: Store, path: str) -> str:
    """Move what is damaged to the folder `damaged` of the store, and return where it lies now."""
    target = f"{DAMAGED}/{path}"
    store.remove(target)
    if store.is_local:
        store.move(path, target)
    else:
        store.filesystem.mv(store.path(path), store.path(target), recursive=True)
    return target


def _damaged(holding: Holding, what: str) -> Finding:
    """Say what becomes of a damaged file with rows."""
    after = {
        "published": ", and the next run makes it anew" if holding.table.name in MADE else "; what it records is lost",
        "draft": ", and the next run makes it anew",
        "part": ", and the next run makes those rows anew",
        "history": "; the catalogs that showed it cannot be taken back",
    }
    return Finding(holding.path, what, REPAIR + after[holding.kind], to_set_aside=True)


def _read_columns(store: Store, table: Table, path: str, names: Sequence[str]) -> pa.Table:
    """Return columns of a file with rows, reading no others.

    Raises:
        ValueError: it cannot be read as Parquet, or its columns are of other types.
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
        pass  # whether it is the file or the disk is told apart below
    return store.read_files(table, [path], names)
