"""Drafts: a version's shards while they are made, hidden from every view and glob until their stage has passed.

```
tokens/version=…/shard=3.parquet            what users see
tokens/version=…/drafts/shard=3.draft       the same shard made again, complete
tokens/version=…/drafts/shard=4.<id>.part   rows of a shard in progress, so that a kill does not lose them
tokens/version=…/history/shard=3.<digest>   a shard that was replaced, for `segue rollback` and for rows that come back
```

Publishing moves each draft to its place, and the file that it replaces to the history. Each move is one step for
readers.

Rows that a remote store does not accept are kept on this machine, as parts of the same name under the user's cache. The
next try of the shard, or the next run, sends them and computes nothing again.
"""

import logging
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

import pyarrow as pa

from schemas.storage.file_store import WriteRefused, cache_folder
from schemas.storage.shards import Footer, distinct, row_keys, sort_shards
from schemas.storage.store import Store
from schemas.tables import Table

log = logging.getLogger(__name__)

DRAFT_NAME = re.compile(r"shard=([0-9A-Za-z_-]+)\.draft")
PART_NAME = re.compile(r"shard=([0-9A-Za-z_-]+)\.([0-9a-f]+)\.part")
HISTORY_NAME = re.compile(r"shard=([0-9A-Za-z_-]+)\.([0-9a-f]+)")
"""Names of the files of drafts, of shards in progress and of replaced shards, inside their folders."""


@dataclass(frozen=True)
class PublishedShard:
    """A shard as a publication records it."""

    shard: str
    digest: str
    """The `data_digest` of its file."""
    rows: int


class Drafts:
    """The drafts of one version of a table, together with its published shards."""

    def __init__(self, store: Store, table: Table, version: str) -> None:
        self.store, self.table, self.version = store, table, version
        self._folder = store.folder(table, version)
        self._known_parts: dict[str, list[str]] | None = None

    # -- what the version will be -------------------------------------------------------------------------------------

    def drafted(self) -> list[str]:
        """Return the shards that have a draft."""
        return sort_shards(match[1] for name in self._names("drafts") if (match := DRAFT_NAME.fullmatch(name)))

    def shards(self) -> list[str]:
        """Return the shards of the version, including those that have only a draft."""
        return sort_shards(self.files())

    def files(self) -> dict[str, str]:
        """Return, by shard, the file from which it is read: its draft, or the published file if it has no draft."""
        shards, folders = self.store.shards_and_folders(self.table, self.version)
        published = {shard: self.store.shard_path(self.table, self.version, shard) for shard in shards}
        names = self.store.files(f"{self._folder}/drafts") if "drafts" in folders else []
        drafted = [match[1] for name in names if (match := DRAFT_NAME.fullmatch(name))]
        return published | {shard: self._draft(shard) for shard in drafted}

    def footers(self) -> dict[str, Footer]:
        """Return the footer of each shard, by shard."""
        return self.store.footers_of(self.files())

    def read(self, shards: Iterable[str] | None = None, columns: Iterable[str] | None = None) -> pa.Table:
        """Return the rows of the version, or of some of its shards; shards that are not there give no rows."""
        files = self.files()
        wanted = files if shards is None else shards
        names = None if columns is None else list(columns)
        return self.store.read_files(self.table, [files[shard] for shard in wanted if shard in files], names)

    # -- a shard in progress ------------------------------------------------------------------------------------------

    def write(self, shard: str, rows: pa.Table, input_key: str, refused: int = 0, passing: int = 0) -> None:
        """Write the draft of a shard, and remove the shard's parts. The parts are listed once, when the first shard is
        written: a source writes thousands of shards, and nobody else writes parts of them meanwhile."""
        where = self._draft(shard)
        self.store.write_rows(where, self.table, rows, input_key, refused, passing)
        if self._known_parts is None:
            self._known_parts = self._all_parts()
        for part in self._known_parts.pop(shard, ()):
            self.store.remove(part)
        if self._local is not None:
            self._local.remove_parts(shard)

    def write_part(self, shard: str, rows: pa.Table) -> None:
        """Keep rows of a shard that is not complete yet, on this machine if a remote store does not accept them. Each
        call writes its own file, so two runs that make the same shard do not overwrite each other's rows."""
        where = f"{self._folder}/drafts/shard={shard}.{uuid.uuid4().hex}.part"
        try:
            self.store.write_rows(where, self.table, rows, "")
        except Exception as error:
            if self._local is None:
                raise
            self._local.write_part(shard, rows)
            log.warning("%s", self._refusal(shard, error))
        else:
            if self._known_parts is not None:
                self._known_parts.setdefault(shard, []).append(where)

    @contextmanager
    def kept_locally(self, shard: str, rows: pa.Table) -> Iterator[None]:
        """Keep all rows of a shard on this machine if a remote store does not accept everything written in this block.

        Raises:
            WriteRefused: the store did not accept it; the message says how often, and since when.
        """
        try:
            yield
        except Exception as error:
            if self._local is None:
                raise
            before = self._local._parts(shard)
            self._local.write_part(shard, rows)
            for part in before:
                self._local.store.remove(part)
            raise WriteRefused(self._refusal(shard, error)) from error

    def parts(self, shard: str) -> pa.Table:
        """Return the rows kept of a shard in progress, each key once."""
        kept = [self.store.read_files(self.table, [part]) for part in self._parts(shard)]
        return distinct(self.table, [*kept, *([self._local.parts(shard)] if self._local else [])])

    def remove_parts(self, shard: str) -> None:
        """Remove what was kept of a shard in progress, and the record of failed writes to a remote store."""
        for part in [*self._parts(shard), *self._refusals(shard)]:
            self.store.remove(part)

    def unfinished_keys(self) -> dict[str, list[tuple[str, ...]]]:
        """Return the keys of the rows kept of shards in progress, by shard."""
        keys: dict[str, list[tuple[str, ...]]] = {}
        for name in self._names("drafts"):
            if match := PART_NAME.fullmatch(name):
                rows = self.store.read_files(self.table, [f"{self._folder}/drafts/{name}"], self.table.key)
                keys.setdefault(match[1], []).extend(row_keys(rows, self.table.key))
        for shard, local_keys in (self._local.unfinished_keys() if self._local else {}).items():
            keys[shard] = list(dict.fromkeys([*keys.get(shard, []), *local_keys]))
        return keys

    @cached_property
    def _local(self) -> "Drafts | None":
        """The same version in this machine's cache, for what a remote store does not accept; None if the store is
        local."""
        if self.store.is_local:
            return None
        return Drafts(Store(str(cache_folder() / str(self.store.root).strip("/"))), self.table, self.version)

    def _refusal(self, shard: str, error: Exception) -> str:
        """Record that a remote store did not accept part of a shard, and return a message about it."""
        assert self._local is not None
        earlier = [self._local.store.read_bytes(file).decode() for file in self._local._refusals(shard)]
        times = [*"".join(earlier).split(), f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"]
        self._local.store.write_bytes(f"{self._folder}/drafts/shard={shard}.refusals", "\n".join(times).encode())
        often = "once" if len(times) == 1 else f"{len(times)} times since {times[0]}"
        reason = " ".join(str(error).split()) or type(error).__name__
        return (
            f"{self.store.url} did not accept shard {shard} of {self.table.name}, {often}: {reason}; its rows are kept "
            "on this machine, and the next try sends them without computing them again"
        )

    def _refusals(self, shard: str) -> list[str]:
        name = f"shard={shard}.refusals"
        return [f"{self._folder}/drafts/{name}"] if name in self._names("drafts") else []

    # -- history ------------------------------------------------------------------------------------------------------

    def replaced(self) -> dict[tuple[str, str], str]:
        """Return the files of replaced shards, by shard and digest."""
        matches = [match for name in self._names("history") if (match := HISTORY_NAME.fullmatch(name))]
        return {(match[1], match[2]): f"{self._folder}/history/{match[0]}" for match in matches}

    def replaced_keys(self, keys: Iterable[tuple[str, ...]]) -> set[tuple[str, ...]]:
        """Return those of the keys that have rows in replaced shards: rows that were dropped and are wanted again."""
        wanted = set(keys)
        return set().union(*(wanted & names for names in self._keys_of_replaced(wanted).values()))

    def find_replaced(self, keys: Iterable[tuple[str, ...]]) -> pa.Table:
        """Return the rows with these keys in replaced shards, each key once."""
        wanted, rows_found = set(keys), []
        for file, names in self._keys_of_replaced(wanted).items():
            if wanted & names:
                rows = self.store.read_files(self.table, [file])
                kept = [key in wanted for key in row_keys(rows, self.table.key)]
                rows_found.append(rows.filter(pa.array(kept, pa.bool_())))
                wanted -= names
        return distinct(self.table, rows_found)

    def _keys_of_replaced(self, wanted: set[tuple[str, ...]]) -> dict[str, set[tuple[str, ...]]]:
        """Return the keys in each file of the history; empty if no keys are wanted."""
        files = self.replaced().values() if wanted else ()
        return {
            file: set(row_keys(self.store.read_files(self.table, [file], self.table.key), self.table.key))
            for file in files
        }

    # -- publishing ---------------------------------------------------------------------------------------------------

    def manifest(self, gone: Iterable[str] = ()) -> list[PublishedShard]:
        """Return the shards of the version as they will be once its drafts are published and the shards in `gone` are
        removed."""
        footers, without = self.footers(), set(gone)
        return [
            PublishedShard(shard, footers[shard].data_digest, footers[shard].rows)
            for shard in sort_shards(footers)
            if shard not in without
        ]

    def publish(self, gone: Iterable[str] = ()) -> None:
        """Move each draft to its place and remove the shards in `gone`; the files that were there go to the history.
        If this is interrupted and run again, the result is the same."""
        for shard in self.drafted():
            published = self.store.footer(self.table, self.version, shard)
            drafted = self.store.footer_of(self._draft(shard))
            changed = published and drafted and published.data_digest != drafted.data_digest
            keep = self._history(shard, published) if published and changed else None
            self.store.move(self._draft(shard), self.store.shard_path(self.table, self.version, shard), keep)
        for shard in gone:
            published = self.store.footer(self.table, self.version, shard)
            if published:
                self.store.move(self.store.shard_path(self.table, self.version, shard), self._history(shard, published))
            for part in self._parts(shard):
                self.store.remove(part)

    def discard(self) -> None:
        """Remove every draft; the published shards stay."""
        for shard in self.drafted():
            self.store.remove(self._draft(shard))

    def _names(self, folder: str) -> list[str]:
        """Return the names of the files in a folder of the version. The version's own listing, which is read anyway,
        shows whether the folder exists; it seldom does."""
        _, folders = self.store.shards_and_folders(self.table, self.version)
        return self.store.files(f"{self._folder}/{folder}") if folder in folders else []

    def _draft(self, shard: str) -> str:
        return f"{self._folder}/drafts/shard={shard}.draft"

    def _parts(self, shard: str) -> list[str]:
        return self._all_parts().get(shard, [])

    def _all_parts(self) -> dict[str, list[str]]:
        """Return where the parts of each shard lie."""
        parts: dict[str, list[str]] = {}
        for name in self._names("drafts"):
            if match := PART_NAME.fullmatch(name):
                parts.setdefault(match[1], []).append(f"{self._folder}/drafts/{name}")
        return parts

    def _history(self, shard: str, footer: Footer) -> str:
        return f"{self._folder}/history/shard={shard}.{footer.data_digest or footer.content}"
