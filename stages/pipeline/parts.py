"""Sources that are read in parts: new items are listed once, and each job reads one range of that list.

```
scratch/ingest-…/unread.list                      the list; each row group is a range
scratch/ingest-…/<list>-<part>-<id>.readings      what a job has read, saved every half minute
```

The files lie in the store, where workers on any machine reach them. `read_source` takes what was read from there, in
the order of the list, and reads the rest itself. So its rows and shards are the same as if it had read everything
itself, however many jobs there were and whichever of them were killed. What a job has saved is not read again.
"""

import io
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas import Settings
from schemas.storage.drafts import Drafts
from schemas.tables import REJECTS
from stages.pipeline.contract import Context
from stages.pipeline.plans import ConfiguredStage

UNREAD, READINGS = "unread.list", ".readings"
"""The name of the list; and the suffix of files with what was read."""

PART = "part-"
"""The prefix of the names of these jobs; the number of the row group follows."""

LIST = "list"
"""The list's metadata key for its own random name, which tells readings of its parts from those of earlier lists."""

ITEM = ("uri", "stamp")
"""The columns that identify an item and its state."""

MOST_ITEMS, MOST_BYTES = 256, 2**30
"""The largest part, in items and bytes. It is half a minute to some minutes of work, so that a job costs much more than
its bookkeeping."""

FEWEST_ITEMS, PARTS_EACH = 8, 4
"""For a small source: the smallest part, in items; and how many parts there are for each place that can do a job, so
that no place waits long for the last part."""

SAVE_SECONDS = 30.0
"""Seconds after which a job saves what it has read: a killed worker loses at most this much work."""

FILES_OPEN = 4
"""How many files of readings are in memory at once."""

Item = tuple[str, str]


def reads_in_parts(module: ModuleType, settings: Settings) -> bool:
    """Return whether a stage reads its source in parts. It does where jobs can run in several places at once."""
    spreads = settings.task_runner != "threads" or settings.concurrency > 1
    return spreads and hasattr(module, "read_part")


def list_parts(stage: ConfiguredStage, context: Context) -> Sequence[str]:
    """List what is to be read of a source, without what an earlier run saved, and return the names of the jobs that
    read it. Empty if a single job is enough."""
    module = stage.module
    if not reads_in_parts(module, context.settings):
        return ()
    drafts = Drafts(context.store, module.WRITES, context.fingerprint)
    known = drafts.read(columns=["files.uri", "files.stamp"])
    refused = context.store.read(REJECTS, context.fingerprint)
    unread, readings = module.list_unread(stage.config, context, known, refused), Readings(context)
    is_saved = [item in readings for item in _items(unread)]
    todo = unread.filter(pa.array([not each for each in is_saved], pa.bool_()))
    ranges = list(cut_ranges(todo.column("size").to_pylist(), context.settings.concurrency))
    if len(ranges) < 2:
        return ()
    todo = todo.replace_schema_metadata({LIST: uuid.uuid4().hex})
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, todo.schema, compression="zstd") as writer:
        for start, stop in ranges:
            writer.write_table(todo.slice(start, stop - start), row_group_size=stop - start)
    context.store.write_bytes(_place(context, UNREAD), buffer.getvalue())
    return [f"{PART}{number}" for number in range(len(ranges))]


def cut_ranges(sizes: Sequence[int], at_once: int) -> Iterator[tuple[int, int]]:
    """Yield the first index of each part of a list, and the index after its last item.

    Args:
        sizes: bytes of each item.
        at_once: how many jobs can certainly run at once.
    """
    limit = max(FEWEST_ITEMS, min(MOST_ITEMS, -(-len(sizes) // (PARTS_EACH * at_once))))
    start, held = 0, 0
    for number, size in enumerate(sizes):
        if number > start and (number - start == limit or held + size > MOST_BYTES):
            yield start, number
            start, held = number, 0
        held += size
    if start < len(sizes):
        yield start, len(sizes)


def read_part(stage: ConfiguredStage, context: Context, job: str) -> None:
    """Do one of the jobs that `list_parts` named: read its range of the list. Whatever ends the job, what was read
    until then is saved."""
    with context.store.filesystem.open(context.store.path(_place(context, UNREAD)), "rb") as file:
        opened, number = pq.ParquetFile(file), job.removeprefix(PART)
        listed, metadata = opened.read_row_group(int(number)), opened.schema_arrow.metadata
    readings = Readings(context, f"{metadata[LIST.encode()].decode()}-{number}-")
    part = listed.filter(pa.array([item not in readings for item in _items(listed)], pa.bool_()))
    rows: list[Mapping[str, Any]] = []
    since = time.monotonic()
    try:
        for row in stage.module.read_part(stage.config, context, part):
            rows.append(row)
            if time.monotonic() - since >= SAVE_SECONDS:
                readings.keep(rows, stage.module.READING)
                rows, since = [], time.monotonic()
    except BaseException:
        with suppress(Exception):  # the error that ended the work is the one to report
            readings.keep(rows, stage.module.READING)
        raise
    readings.keep(rows, stage.module.READING)


class Readings:
    """What jobs have read of a stage's source and saved, as it was when this object was made.

    Args:
        name: the prefix of the names of the files to look at and to write.
    """

    def __init__(self, context: Context, name: str = "") -> None:
        self._context, self._name = context, name
        self._files: dict[Item, str] = {}
        for file in context.store.files(context.scratch_area.relative):
            if file.startswith(name) and file.endswith(READINGS):
                self._files |= dict.fromkeys(_items(self._read(file, ITEM)), file)
        self._opened = lru_cache(FILES_OPEN)(self._open)

    def __bool__(self) -> bool:
        return bool(self._files)

    def __contains__(self, item: Item) -> bool:
        return item in self._files

    def take(self, item: Item) -> pa.Table:
        """Return the row of an item that was read."""
        rows, places = self._opened(self._files[item])
        return rows.slice(places[item], 1)

    def keep(self, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> None:
        """Save rows of items that were read."""
        table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
        if table.num_rows:
            buffer = io.BytesIO()
            pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
            name = f"{self._name}{uuid.uuid4().hex}{READINGS}"
            self._context.store.write_bytes(_place(self._context, name), buffer.getvalue())

    def clear(self) -> None:
        """Remove all readings and the list; their rows are in the table now."""
        if self._context.store.files(self._context.scratch_area.relative):
            self._context.clear_scratch()

    def _open(self, name: str) -> tuple[pa.Table, dict[Item, int]]:
        rows = self._read(name)
        return rows, {item: place for place, item in enumerate(_items(rows))}

    def _read(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        with self._context.store.filesystem.open(self._context.store.path(_place(self._context, name)), "rb") as file:
            return pq.read_table(file, columns=columns and list(columns), page_checksum_verification=True)


def _items(rows: pa.Table) -> list[Item]:
    return list(zip(*(rows.column(name).to_pylist() for name in ITEM), strict=True))


def _place(context: Context, name: str) -> str:
    return f"{context.scratch_area.relative}/{name}"
