"""Metadata beside the recordings, the more explicit first: the AudioFolder table of a recording's folder or of one
above, its JSON sidecar in AudioCraft's form, AudioCraft's manifests. (A file's own tags, read in `tags`, come last.)

Names in metadata only ever match files that the listing found: nothing that they name is opened. Tables (CSV, JSON
lines, Parquet) and manifests (JSON lines, gzipped too) are read on every run, since each describes many tracks; a
sidecar only when its own stamp changed. What cannot be parsed is reported in one sentence and the rest is used; nothing
here grows beyond set bounds, whatever a file claims or unpacks to.
"""

import csv
import gzip
import io
import json
import posixpath
import unicodedata
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from stages.audio.locations import AudioError, open_binary
from stages.ingest.fields import Fields, read_fields
from stages.ingest.listing import File

TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""The names of AudioFolder tables, the first before the others in one folder."""

SIDECAR_BYTES = 4 * 2**20
TABLE_BYTES = 512 * 2**20
"""Larger files are not read."""

LINE_BYTES = 2**20
"""Longest line of JSON that is parsed."""

UNPACKED_BYTES = 2**30
"""Where the unpacking of a gzipped manifest stops."""

LEAST_BYTES = 64
"""What a line counts for at least, so that a file of empty lines is bounded too."""

SIDECARS_AT_ONCE = 16


class MetadataStamp(NamedTuple):
    """The state of all metadata beside one recording: equal for equal metadata."""

    fields: list[str]
    """What tables and manifests hold of it: `Fields` as JSON."""
    sidecar: list[str] | None
    """URI and stamp of its sidecar."""


NO_METADATA = MetadataStamp([], None)


@dataclass
class _MetadataTable:
    """What one table or manifest holds: fields by the `relative` of the recording, and what was wrong with it."""

    folder: str
    fields: dict[str, Fields] = field(default_factory=dict)
    problem: str = ""

    def fields_of(self, relative: str) -> Fields:
        """Return the fields of a recording. Where it has none and the file could not be read whole, that may be the
        reason."""
        known = self.fields.get(relative)
        if known is not None:
            return known
        inside = not self.folder or relative.startswith(f"{self.folder}/")
        return Fields({}, (self.problem,)) if self.problem and inside else Fields()


class SourceMetadata:
    """The metadata beside the recordings of a listing."""

    def __init__(self, recordings: Iterable[File], metadata: Iterable[File]) -> None:
        self._recordings = list(recordings)
        metadata = list(metadata)
        self._sidecars = {_stem(file.relative): file for file in metadata if file.relative.lower().endswith(".json")}
        self._table_files = [file for file in metadata if PurePosixPath(file.relative).name in TABLES]
        self._manifest_files = [
            file
            for file in metadata
            if file.relative.lower().endswith((".jsonl", ".jsonl.gz")) and file not in self._table_files
        ]

    @property
    def is_empty(self) -> bool:
        """There is no table, sidecar or manifest at all."""
        return not (self._sidecars or self._table_files or self._manifest_files)

    def stamp(self, recording: File) -> MetadataStamp:
        """Return the present state of a recording's metadata; no sidecar is opened."""
        if self.is_empty:
            return NO_METADATA
        sidecar = self._sidecars.get(_stem(recording.relative)) if self._sidecars else None
        shared = [*self._from_tables(recording), *self._from_manifests(recording)]
        fields = [each.to_json() for each in shared if each != Fields()]
        return MetadataStamp(fields, [sidecar.uri, sidecar.stamp] if sidecar else None)

    def fields_of(self, recordings: Sequence[File]) -> list[list[Fields]]:
        """Return the fields of each recording from every place but its own tags, the more explicit first.

        Sidecars are read side by side: on an object store each is a request of its own."""
        sidecars = [self._sidecars.get(_stem(recording.relative)) for recording in recordings]
        with ThreadPoolExecutor(SIDECARS_AT_ONCE) as threads:
            from_sidecars = threads.map(lambda file: [_read_sidecar(file)] if file else [], sidecars)
            return [
                [*self._from_tables(recording), *from_sidecar, *self._from_manifests(recording)]
                for recording, from_sidecar in zip(recordings, from_sidecars, strict=True)
            ]

    def _from_tables(self, recording: File) -> Iterator[Fields]:
        for folder in _folders(recording.relative) if self._table_files else ():
            for table in self._tables.get(folder, ()):
                yield table.fields_of(_normal(recording.relative))

    def _from_manifests(self, recording: File) -> Iterator[Fields]:
        for manifest in self._manifests:
            yield manifest.fields_of(_normal(recording.relative))

    @cached_property
    def _tables(self) -> Mapping[str, list[_MetadataTable]]:
        if not self._table_files:
            return {}
        known = {_normal(recording.relative) for recording in self._recordings}
        tables = defaultdict(list)
        for file in sorted(self._table_files, key=lambda file: TABLES.index(PurePosixPath(file.relative).name)):
            folder = posixpath.dirname(file.relative)
            separators = ";" if file.relative.endswith(".csv") else ";,"
            rows, table = _Rows(file), _MetadataTable(_normal(folder))
            named = 0
            for name, row in _rows_with(rows, "file_name"):
                named += 1
                relative = _normal(posixpath.normpath(posixpath.join(folder, name)))
                if relative in known:
                    table.fields.setdefault(relative, read_fields(row, file.relative, separators))
            problem = rows.problem or ("" if named else "expected rows with a column file_name, got none")
            table.problem = f"{file.relative}: {problem}" if problem else ""
            tables[folder].append(table)
        return tables

    @cached_property
    def _manifests(self) -> list[_MetadataTable]:
        if not self._manifest_files:
            return []
        by_name = defaultdict(list)
        for recording in self._recordings:
            by_name[_normal(PurePosixPath(recording.relative).name)].append(recording)
        manifests = []
        for file in self._manifest_files:
            folder = posixpath.dirname(file.relative)
            rows, manifest = _Rows(file), _MetadataTable(_normal(folder))
            for path, row in _rows_with(rows, "path"):
                match = _match(_normal(path), folder, by_name.get(_normal(PurePosixPath(path).name), []))
                if match is not None:
                    manifest.fields.setdefault(_normal(match.relative), read_fields(row, file.relative))
            manifest.problem = f"{file.relative}: {rows.problem}" if rows.problem else ""
            manifests.append(manifest)
        return manifests


def _match(path: str, folder: str, candidates: list[File]) -> File | None:
    """Return the recording that a manifest's path means: itself, or under the manifest's folder, or under the source,
    or (as manifests are written from some other working folder) the only one whose full name ends with the path."""
    relatives = {_normal(posixpath.normpath(posixpath.join(folder, path))), _normal(posixpath.normpath(path))}
    for candidate in candidates:
        if _normal(candidate.uri) == path or _normal(candidate.relative) in relatives:
            return candidate
    ending = "/" + posixpath.normpath(path).lstrip("./")
    endings = [candidate for candidate in candidates if _normal(candidate.uri).endswith(ending)]
    return endings[0] if len(endings) == 1 else None


def _read_sidecar(file: File) -> Fields:
    try:
        with open_binary(file.uri) as opened:
            data = opened.read(SIDECAR_BYTES + 1)
        if len(data) > SIDECAR_BYTES:
            raise ValueError(f"expected at most {SIDECAR_BYTES:,} bytes, got more")
        sidecar = _parse_json(data)
        if not isinstance(sidecar, Mapping):
            raise ValueError(f"expected a JSON object, got {type(sidecar).__name__}")
    except AudioError:
        return Fields({}, (f"{file.relative}: expected a JSON sidecar, got a file that cannot be opened",))
    except ValueError as error:
        return Fields({}, (f"{file.relative}: {error}, so it was passed over",))
    return read_fields(sidecar, file.relative)


def _stem(relative: str) -> str:
    return _normal(posixpath.splitext(relative)[0])


def _folders(relative: str) -> Iterator[str]:
    """Yield the folders above a file, the nearest first; the source itself is the empty one."""
    folder = posixpath.dirname(relative)
    while folder:
        yield folder
        folder = posixpath.dirname(folder)
    yield ""


def _normal(text: str) -> str:
    """Names are compared in one Unicode form: disks of Apple's decompose letters, editors compose them."""
    return unicodedata.normalize("NFC", text)


# -- rows of a file ----------------------------------------------------------------------------------------------------


@dataclass
class _Rows:
    """The rows of a file, one after the other; when they are through, `problem` says what could not be read."""

    file: File
    problem: str = ""

    def __iter__(self) -> Iterator[Mapping[Any, Any]]:
        if self.file.size > TABLE_BYTES:
            self.problem = f"expected at most {TABLE_BYTES:,} bytes, got {self.file.size:,}"
            return
        try:
            with open_binary(self.file.uri) as opened:
                data = opened.read(TABLE_BYTES)
        except AudioError:
            self.problem = "expected a file that may be read, got one that may not"
            return
        for row in self._parser()(data, self):
            if isinstance(row, Mapping):
                yield row

    def _parser(self) -> Callable[[bytes, "_Rows"], Iterator[Any]]:
        name = self.file.relative.lower()
        if name.endswith(".csv"):
            return _csv_rows
        if name.endswith(".parquet"):
            return _parquet_rows
        return _gzip_rows if name.endswith(".gz") else _json_rows


def _rows_with(rows: _Rows, column: str) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield the rows that name a file in `column`, with that name."""
    for row in rows:
        name = row.get(column)
        if isinstance(name, str) and name and len(name) < 4096:
            yield name, row


def _parse_json(data: bytes) -> Any:
    """Parse a JSON value.

    Raises:
        ValueError: it is no JSON, not UTF-8, or nested deeper than anything that people write.
    """
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"expected UTF-8, got other bytes at position {error.start:,}") from error
    except RecursionError as error:
        raise ValueError("expected plain JSON, got one nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"expected JSON, got {str(error)[:120]}") from error


def _csv_rows(data: bytes, rows: _Rows) -> Iterator[Any]:
    # Bytes that are no UTF-8 become surrogates, which cost their own field alone.
    text = data.decode("utf-8-sig", errors="surrogateescape").replace("\0", "")
    before = csv.field_size_limit(len(text) + 1)
    try:
        yield from csv.DictReader(io.StringIO(text, newline=""))
    except csv.Error as error:
        rows.problem = f"expected a CSV table, got {error}"
    finally:
        csv.field_size_limit(before)


def _json_rows(data: bytes, rows: _Rows) -> Iterator[Any]:
    yield from _json_lines(io.BytesIO(data), rows)


def _gzip_rows(data: bytes, rows: _Rows) -> Iterator[Any]:
    try:
        with gzip.open(io.BytesIO(data)) as unpacked:
            yield from _json_lines(unpacked, rows)
    except (OSError, EOFError, zlib.error) as error:
        rows.problem = f"expected a whole gzip file, got {error}"


def _json_lines(file: io.BufferedIOBase, rows: _Rows) -> Iterator[Any]:
    number = broken = total = 0
    while total < UNPACKED_BYTES:
        line = file.readline(LINE_BYTES)
        total += max(len(line), LEAST_BYTES)
        if not line:
            break
        number += 1
        try:
            if len(line) == LINE_BYTES and not line.endswith(b"\n"):
                while (rest := file.readline(LINE_BYTES)) and not rest.endswith(b"\n"):
                    total += len(rest)
                    if total > UNPACKED_BYTES:
                        break
                raise ValueError(f"expected lines of at most {LINE_BYTES:,} bytes, got a longer one")
            if line.strip():
                yield _parse_json(line)
        except ValueError as error:
            broken += 1
            rows.problem = rows.problem or f"line {number}: {error}"
    if broken > 1:
        rows.problem += f" (and {broken - 1} more lines)"


def _parquet_rows(data: bytes, rows: _Rows) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        for batch in file.iter_batches(batch_size=4096):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
        rows.problem = f"expected a Parquet table, got {str(error)[:120]}"
