"""Differences: which rows of a table were added, removed or changed between two publications or versions, by key."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa

from schemas.queries.database import query
from schemas.storage.drafts import Drafts, PublishedShard
from schemas.storage.publications import Publications
from schemas.storage.store import Store
from schemas.tables import Table

_FINGERPRINT = re.compile(r"[0-9a-f]{4,16}")


@dataclass(frozen=True)
class Content:
    """What a table held: as a publication recorded it, or as a version holds it now."""

    version: str
    files: Mapping[PublishedShard, str]
    """The file of each shard."""
    publication: int | None = None

    def __str__(self) -> str:
        version = f"version {self.version[:8]}"
        return version if self.publication is None else f"publication {self.publication} ({version})"


@dataclass(frozen=True)
class ChangedRow:
    """A row that differs."""

    key: tuple[str, ...]
    change: str
    """`in` (added), `out` (removed) or `changed`."""
    columns: tuple[str, ...] = ()
    """The columns that changed."""


@dataclass(frozen=True)
class Difference:
    """The rows that differ between two contents of a table, and how many rows are the same."""

    rows: Sequence[ChangedRow]
    same: int

    def count(self, change: str) -> int:
        """Return the number of rows with the given `change`."""
        return sum(row.change == change for row in self.rows)


def find_content(store: Store, table: Table, name: str) -> Content:
    """Return what a table held after a publication (given by number), or holds in a version (given by the first digits
    of its fingerprint).

    Raises:
        ValueError: there is no such publication or version.
    """
    publications = Publications(store)
    if name.isdecimal() and int(name) in publications.sequences():
        sequence = publications.record(int(name)).passed.get(table.name)
        if sequence is not None:
            return _published(store, table, sequence)
    elif _FINGERPRINT.fullmatch(name):
        versions = [version for version in store.versions(table) if version.startswith(name)]
        if len(versions) == 1:
            shards = Drafts(store, table, versions[0]).manifest()
            return Content(versions[0], {at: store.shard_path(table, versions[0], at.shard) for at in shards})
    prefixes = ", ".join(version[:8] for version in store.versions(table)) or "none"
    numbers = ", ".join(map(str, islice(_publications_of(store, table), 5))) or "none"
    raise ValueError(
        f"expected a publication of {table.name} (the last: {numbers}) or the first digits of one of its versions "
        f"({prefixes}), got {name!r}"
    )


def last_contents(store: Store, table: Table) -> tuple[Content, Content]:
    """Return what a table held in its last but one and in its last publication.

    Raises:
        ValueError: it has fewer than two.
    """
    numbers = list(islice(_publications_of(store, table), 2))
    if len(numbers) < 2:
        raise ValueError(
            f"expected two publications of {table.name} to compare, got {len(numbers)}: its rows have not changed yet"
        )
    return _published(store, table, numbers[1]), _published(store, table, numbers[0])


def _publications_of(store: Store, table: Table) -> Iterator[int]:
    """Yield the numbers of the publications of a table, newest first."""
    publications, latest = Publications(store), Publications(store).latest()
    sequences, number = publications.sequences(), latest.passed.get(table.name) if latest else None
    while number in sequences:
        yield number
        earlier = sequences[: sequences.index(number)]
        number = publications.record(earlier[-1]).passed.get(table.name) if earlier else None


def _published(store: Store, table: Table, sequence: int) -> Content:
    publications = Publications(store)
    record = publications.record(sequence)
    files = publications.files_of(table, record)
    shards = record.shards[table.name]
    for file, shard in zip(files, shards, strict=True):
        footer = store.footer_of(file)
        if footer is None or footer.data_digest != shard.digest:
            raise ValueError(
                f"expected shard {shard.shard} of {table.name} as publication {sequence} had it, got none in "
                f"{store.url}: `segue clean` has removed it; choose a later publication"
            )
    return Content(record.versions[table.name], dict(zip(shards, files, strict=True)), sequence)


def compare(store: Store, table: Table, before: Content, after: Content) -> Difference:
    """Compare two contents of a table, reading only the shards that differ.

    A column that names a file is not compared if the row also has the file's digest, which is.
    """
    both = before.files.keys() & after.files.keys()
    old, new = (
        _row_hashes(store, table, [file for shard, file in content.files.items() if shard not in both])
        for content in (before, after)
    )
    rows, same = [], sum(shard.rows for shard in both)
    for key in sorted(old.keys() | new.keys()):
        if key not in old:
            rows.append(ChangedRow(key, "in"))
        elif key not in new:
            rows.append(ChangedRow(key, "out"))
        else:
            changed = tuple(
                name for name, one, other in zip(_compared(table), old[key], new[key], strict=True) if one != other
            )
            if changed:
                rows.append(ChangedRow(key, "changed", changed))
            else:
                same += 1
    return Difference(rows, same)


def _compared(table: Table) -> list[str]:
    """Return the columns to compare: those of the table's identity without its key and without named files that have a
    digest."""
    located = {columns.path for columns in table.files if columns.sha256 or columns.folder_digest}
    return [name for name in table.identity or table.schema.names if name not in (*table.key, *located)]


def _row_hashes(store: Store, table: Table, files: Sequence[str]) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Return a hash of each compared value of each row, by the row's key."""
    if not files:
        return {}
    keys = [f'"{name}"::VARCHAR' for name in table.key]
    hashes = [f'hash("{name}")' for name in _compared(table)]
    names = [f'{value} AS "{number}"' for number, value in enumerate((*keys, *hashes))]
    answer: pa.Table = query(store, f"SELECT {', '.join(names)} FROM {table.name}", {table.name: files})
    columns = [column.to_pylist() for column in answer.columns]
    count = len(keys)
    return {tuple(row[:count]): tuple(row[count:]) for row in zip(*columns, strict=True)}
