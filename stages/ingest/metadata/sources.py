"""Who says what about a recording, the more explicit first: the AudioFolder table of its folder or one above, its JSON
sidecar in AudioCraft's form, AudioCraft's manifests. (The file's own tags, read in `tags`, come last.)

Names in metadata only ever match files that the listing found: nothing that they name is opened. Tables and manifests
are read on every run, since each speaks of many tracks; a sidecar only when its own stamp changed.
"""

import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from stages.audio.locations import AudioError, open_binary
from stages.ingest.listing import File
from stages.ingest.metadata.fields import Fields, read_fields
from stages.ingest.metadata.files import Rows, read_json

TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""The names of AudioFolder tables, the first before the others in one folder."""

NOTHING_SAID: tuple[list, None] = ([], None)
"""What `Sources.stamp` gives for a recording of which nothing is said outside its own file."""

SIDECAR_BYTES = 4 * 2**20
TABLE_BYTES = 512 * 2**20
SIDECARS_AT_ONCE = 16


@dataclass
class _Said:
    """What one table or manifest says: fields by the `relative` of the recording, and what was wrong with it."""

    folder: str
    fields: dict[str, Fields] = field(default_factory=dict)
    problem: str = ""

    def about(self, relative: str) -> Fields:
        """What it says of a recording. Where it says nothing and could not be read whole, that may be the reason."""
        known = self.fields.get(relative)
        if known is not None:
            return known
        inside = not self.folder or relative.startswith(f"{self.folder}/")
        return Fields({}, (self.problem,)) if self.problem and inside else Fields()


class Sources:
    """The metadata of a listing."""

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

    def stamp(self, recording: File) -> list:
        """What the explicit sources say of a recording now, as plain values: equal for equal metadata."""
        if self.silent:
            return list(NOTHING_SAID)
        sidecar = self._sidecars.get(_stem(recording.relative)) if self._sidecars else None
        shared = [*self._from_tables(recording), *self._from_manifests(recording)]
        spoken = [fields.to_json() for fields in shared if fields != Fields()]
        return [spoken, [sidecar.uri, sidecar.stamp] if sidecar else None]

    @property
    def silent(self) -> bool:
        """There is no table, sidecar or manifest at all."""
        return not (self._sidecars or self._table_files or self._manifest_files)

    def explicit(self, recordings: Sequence[File]) -> list[list[Fields]]:
        """What is said of each recording outside its own file, the more explicit first.

        Sidecars are read side by side: on an object store each is a request of its own."""
        sidecars = [self._sidecars.get(_stem(recording.relative)) for recording in recordings]
        with ThreadPoolExecutor(SIDECARS_AT_ONCE) as threads:
            beside = list(threads.map(lambda file: [_read_sidecar(file)] if file else [], sidecars))
        return [
            [*self._from_tables(recording), *said, *self._from_manifests(recording)]
            for recording, said in zip(recordings, beside, strict=True)
        ]

    def _from_tables(self, recording: File) -> Iterator[Fields]:
        for folder in _folders(recording.relative) if self._table_files else ():
            for said in self._tables.get(folder, ()):
                yield said.about(_normal(recording.relative))

    def _from_manifests(self, recording: File) -> Iterator[Fields]:
        for said in self._manifests:
            yield said.about(_normal(recording.relative))

    @cached_property
    def _tables(self) -> Mapping[str, list[_Said]]:
        if not self._table_files:
            return {}
        known = {_normal(recording.relative) for recording in self._recordings}
        tables = defaultdict(list)
        for file in sorted(self._table_files, key=lambda one: TABLES.index(PurePosixPath(one.relative).name)):
            folder = posixpath.dirname(file.relative)
            separators = ";" if file.relative.endswith(".csv") else ";,"
            rows, said = Rows(file, TABLE_BYTES), _Said(_normal(folder))
            named = 0
            for name, row in _named(rows, "file_name"):
                named += 1
                place = _normal(posixpath.normpath(posixpath.join(folder, name)))
                if place in known:
                    said.fields.setdefault(place, read_fields(row, file.relative, separators))
            problem = rows.problem or ("" if named else "expected rows with a column file_name, got none")
            said.problem = f"{file.relative}: {problem}" if problem else ""
            tables[folder].append(said)
        return tables

    @cached_property
    def _manifests(self) -> list[_Said]:
        if not self._manifest_files:
            return []
        by_name = defaultdict(list)
        for recording in self._recordings:
            by_name[_normal(PurePosixPath(recording.relative).name)].append(recording)
        manifests = []
        for file in self._manifest_files:
            folder = posixpath.dirname(file.relative)
            rows, said = Rows(file, TABLE_BYTES), _Said(_normal(folder))
            for path, row in _named(rows, "path"):
                match = _match(_normal(path), folder, by_name.get(_normal(PurePosixPath(path).name), []))
                if match is not None:
                    said.fields.setdefault(_normal(match.relative), read_fields(row, file.relative))
            said.problem = f"{file.relative}: {rows.problem}" if rows.problem else ""
            manifests.append(said)
        return manifests


def _match(path: str, folder: str, candidates: list[File]) -> File | None:
    """The recording that a manifest's path means: itself, or under the manifest's folder, or under the source, or (as
    manifests are written from some other working folder) the only one whose full name ends with the path."""
    places = {_normal(posixpath.normpath(posixpath.join(folder, path))), _normal(posixpath.normpath(path))}
    for candidate in candidates:
        if _normal(candidate.uri) == path or _normal(candidate.relative) in places:
            return candidate
    ending = "/" + posixpath.normpath(path).lstrip("./")
    endings = [candidate for candidate in candidates if _normal(candidate.uri).endswith(ending)]
    return endings[0] if len(endings) == 1 else None


def _named(rows: Rows, column: str) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    for row in rows:
        name = row.get(column)
        if isinstance(name, str) and name and len(name) < 4096:
            yield name, row


def _read_sidecar(file: File) -> Fields:
    try:
        with open_binary(file.uri) as opened:
            data = opened.read(SIDECAR_BYTES + 1)
        if len(data) > SIDECAR_BYTES:
            raise ValueError(f"expected at most {SIDECAR_BYTES:,} bytes, got more")
        plain = read_json(data)
        if not isinstance(plain, Mapping):
            raise ValueError(f"expected a JSON object, got {type(plain).__name__}")
    except AudioError:
        return Fields({}, (f"{file.relative}: expected a JSON sidecar, got a file that cannot be opened",))
    except ValueError as error:
        return Fields({}, (f"{file.relative}: {error}, so it was passed over",))
    return read_fields(plain, file.relative)


def _stem(relative: str) -> str:
    return _normal(posixpath.splitext(relative)[0])


def _folders(relative: str) -> Iterator[str]:
    """The folders above a file, the nearest first; the source itself is the empty one."""
    folder = posixpath.dirname(relative)
    while folder:
        yield folder
        folder = posixpath.dirname(folder)
    yield ""


def _normal(text: str) -> str:
    """Names are compared in one Unicode form: disks of Apple's decompose letters, editors compose them."""
    return unicodedata.normalize("NFC", text)
