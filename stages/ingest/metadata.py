"""Metadata beside the recordings, in order of precedence: the AudioFolder table of a recording's folder or of one
above, its JSON sidecar in AudioCraft's form, AudioCraft's manifests. (A file's own tags, read in `tags`, come last.)

Names in metadata are only compared with files that were listed: nothing that they name is opened. Tables (CSV, JSON,
Parquet) and manifests (JSON lines, gzipped too) are read on every run, since each describes many tracks. A sidecar is
read only if its own stamp changed. What cannot be parsed is reported in one sentence, and the rest is used. `remarks`
says which metadata describes no recording, and which names were matched although they differ from the file's.
"""

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import NamedTuple

from schemas.storage.addresses import written_address
from stages.audio.locations import AudioError, open_binary
from stages.ingest.endings import MANIFEST_EXTENSIONS
from stages.ingest.fields import Fields, clean_text, read_fields
from stages.ingest.listing import File
from stages.ingest.matching import RecordingNames
from stages.ingest.rows import MANIFEST_COLUMN, MetadataRows, parse_json
from stages.pipeline.remarks import Remarks

TABLES = ("metadata.csv", "metadata.jsonl", "metadata.json", "metadata.parquet")
"""The names of AudioFolder tables, in any case, by precedence in one folder."""

SIDECAR_BYTES = 4 * 2**20
"""Larger sidecars are not read."""

SIDECARS = (".json", ".txt")
"""Endings of sidecars. Texts come from archives and are descriptions."""

SIDECARS_AT_ONCE = 16


AGAIN = "rows that name a recording another row names too; the first of the best matches is used"

NO_SIDECAR = "JSON files that belong to no recording"


class MetadataStamp(NamedTuple):
    """The state of all metadata beside one recording. Equal metadata has equal stamps."""

    fields: list[str]
    """Its fields in tables and manifests: `Fields` as JSON."""
    sidecar: list[str] | None
    """URI and stamp of each of its sidecars, one after the other."""


NO_METADATA = MetadataStamp([], None)


@dataclass
class _MetadataTable:
    """One table or manifest: fields by the `relative` path of the recording, and what was wrong with the file."""

    folder: str
    fields: dict[str, Fields] = field(default_factory=dict)
    problem: str = ""

    def fields_of(self, relative: str) -> Fields:
        """Return the fields of a recording. If it has none and the file could not be read whole, which may be the
        reason, the problem is returned as a warning."""
        known = self.fields.get(relative)
        if known is not None:
            return known
        inside = not self.folder or relative.startswith(f"{self.folder}/")
        return Fields({}, (self.problem,)) if self.problem and inside else Fields()


class SourceMetadata:
    """The metadata beside the recordings of a listing.

    Args:
        store: the place of the store. A sidecar in it is recorded relative to it, so that its stamp stays the same if
            the store is moved.
    """

    def __init__(self, recordings: Iterable[File], metadata: Iterable[File], store: str = "") -> None:
        self._store = f"{store}/" if store else ""
        self._names = RecordingNames(list(recordings))
        self._table_files: list[File] = []
        self._manifest_files: list[File] = []
        self._sidecar_files: list[File] = []
        self._other_files: list[File] = []
        for file in metadata:
            name = PurePosixPath(file.relative).name.lower()
            if name in TABLES:
                self._table_files.append(file)
            elif name.endswith(MANIFEST_EXTENSIONS):
                self._manifest_files.append(file)
            elif name.endswith(SIDECARS):
                self._sidecar_files.append(file)
            else:
                self._other_files.append(file)
        self._remarks = Remarks()

    @property
    def is_empty(self) -> bool:
        """Whether there is no table, sidecar or manifest at all."""
        return not (self._sidecar_files or self._table_files or self._manifest_files)

    @cached_property
    def remarks(self) -> Remarks:
        """Remarks on metadata that describes no recording, was guessed or could not be read. Sidecars are not opened
        for this: what is wrong in a sidecar is a warning of its track."""
        described = {relative for table in self._all_tables() for relative in table.fields} | self._sidecars.keys()
        if described:
            what = "recordings that no table, sidecar or manifest describes"
            undescribed = [each.relative for each in self._names.recordings if each.relative not in described]
            self._remarks.add_all(what, "", undescribed)
        other_names = f"tables with other names than {', '.join(TABLES)}; ignored"
        self._remarks.add_all(other_names, "", [file.relative for file in self._other_files])
        return self._remarks

    @property
    def problems(self) -> set[str]:
        """The problems of whole tables and manifests. They become warnings of tracks that the file might have
        described."""
        return {table.problem for table in self._all_tables() if table.problem}

    @property
    def locations(self) -> set[str]:
        """The paths, under the source, of all tables and manifests."""
        return {file.relative for file in (*self._table_files, *self._manifest_files)}

    def stamp(self, recording: File) -> MetadataStamp:
        """Return the present state of a recording's metadata, without opening a sidecar."""
        if self.is_empty:
            return NO_METADATA
        sidecar = [
            state
            for file in self._sidecars_of(recording)
            for state in (written_address(file.uri, self._store), file.stamp)
        ]
        shared = [*self._from_tables(recording), *self._from_manifests(recording)]
        fields = [each.to_json() for each in shared if each != Fields()]
        return MetadataStamp(fields, sidecar or None)

    def fields_of(self, recordings: Sequence[File]) -> list[list[Fields]]:
        """Return the fields of each recording from all places except its own tags, by precedence.

        Sidecars are read in parallel: on an object store each takes a request."""
        sidecars = [self._sidecars_of(recording) for recording in recordings]
        with ThreadPoolExecutor(SIDECARS_AT_ONCE) as threads:
            from_sidecars = threads.map(lambda files: [_read_sidecar(file) for file in files], sidecars)
            return [
                [*self._from_tables(recording), *from_sidecar, *self._from_manifests(recording)]
                for recording, from_sidecar in zip(recordings, from_sidecars, strict=True)
            ]

    def _sidecars_of(self, recording: File) -> list[File]:
        return self._sidecars.get(recording.relative, []) if self._sidecar_files else []

    def _from_tables(self, recording: File) -> Iterator[Fields]:
        for folder in _folders(recording.relative) if self._table_files else ():
            for table in self._tables.get(folder, ()):
                yield table.fields_of(recording.relative)

    def _from_manifests(self, recording: File) -> Iterator[Fields]:
        for manifest in self._manifests:
            yield manifest.fields_of(recording.relative)

    def _all_tables(self) -> list[_MetadataTable]:
        return [*(table for tables in self._tables.values() for table in tables), *self._manifests]

    @cached_property
    def _tables(self) -> Mapping[str, list[_MetadataTable]]:
        tables = defaultdict(list)
        ranked = sorted(self._table_files, key=lambda file: TABLES.index(PurePosixPath(file.relative).name.lower()))
        for file in ranked:
            rows = MetadataRows(file, "file_name")
            tables[posixpath.dirname(file.relative)].append(self._read_table(file, rows, everywhere=False))
        return tables

    @cached_property
    def _manifests(self) -> list[_MetadataTable]:
        return [
            self._read_table(file, MetadataRows(file, MANIFEST_COLUMN), everywhere=True)
            for file in self._manifest_files
        ]

    def _read_table(self, file: File, rows: MetadataRows, everywhere: bool) -> _MetadataTable:
        """Read a table or manifest, and remark on the rows that are of no use. If several rows name a recording, one
        that has its exact name takes precedence over one that was matched in another form."""
        folder = posixpath.dirname(file.relative)
        table = _MetadataTable(folder)
        loosely: dict[str, Fields] = {}
        unmatched: dict[str, list[str]] = defaultdict(list)
        for name, row in rows.naming():
            match = self._names.find(name, folder, everywhere)
            if match.recording is None:
                unmatched[match.how].append(name)
                continue
            fields = read_fields(row, file.relative, _list_separators(file, rows))
            known = table.fields if not match.how else loosely
            if match.recording.relative in known:
                self._remarks.add(AGAIN, file.relative, name)
            known.setdefault(match.recording.relative, fields)
            if match.how:
                self._remarks.add(match.how, file.relative, f"{name} → {match.recording.relative}")
        self._remarks.add_all(AGAIN, file.relative, sorted(loosely.keys() & table.fields.keys()))
        table.fields = loosely | table.fields
        for how, names in unmatched.items():
            self._remarks.add_all(how if table.fields else "no row names a recording here", file.relative, names)
        for what, example in rows.notes.items():
            self._remarks.add(what, file.relative, example)
        if rows.problem:
            table.problem = f"{clean_text(file.relative)[:200]}: {rows.problem}"
            self._remarks.add("tables and manifests that could not be read whole", file.relative, rows.problem)
        return table

    @cached_property
    def _sidecars(self) -> dict[str, list[File]]:
        """The sidecars of each recording that has any. They are found by the recording's whole name, by its name
        without the ending, or by a name that differs in form if it fits only one recording."""
        if not self._sidecar_files:
            return {}
        by_stem: dict[str, list[File]] = defaultdict(list)
        for file in self._sidecar_files:
            by_stem[posixpath.splitext(file.relative)[0]].append(file)
        sidecars: dict[str, list[File]] = {}
        used: set[str] = set()
        for recording in self._names.recordings:
            stems = (recording.relative, posixpath.splitext(recording.relative)[0])
            files = [file for stem in dict.fromkeys(stems) for file in by_stem.get(stem, ())]
            if files:
                sidecars[recording.relative] = files
                used.update(stem for stem in stems if stem in by_stem)
        for stem in sorted(by_stem.keys() - used):
            match, files = self._names.find_stem(stem), by_stem[stem]
            if match.recording is None or match.recording.relative in sidecars:
                self._remarks.add_all(NO_SIDECAR, "", [each.relative for each in files])
            else:
                sidecars[match.recording.relative] = files
                self._remarks.add(match.how, "", f"{files[0].relative} → {match.recording.relative}")
        return sidecars


def _list_separators(file: File, rows: MetadataRows) -> str:
    """Return the characters that separate the items of a list in one text. In a CSV table this is not the table's
    comma, since moods contain commas."""
    if not file.relative.lower().endswith(".csv"):
        return ";,"
    return ";" if rows.separator != ";" else ","


def _read_sidecar(file: File) -> Fields:
    try:
        with open_binary(file.uri) as opened:
            data = opened.read(SIDECAR_BYTES + 1)
        if len(data) > SIDECAR_BYTES:
            raise ValueError(f"expected at most {SIDECAR_BYTES:,} bytes, got more")
        if file.relative.lower().endswith(".txt"):
            return read_fields({"description": data.decode("utf-8-sig", errors="surrogateescape")}, file.relative)
        sidecar = parse_json(data)
        if not isinstance(sidecar, Mapping):
            raise ValueError(f"expected a JSON object, got {type(sidecar).__name__}")
    except AudioError:
        return Fields({}, (f"{file.relative}: expected a JSON sidecar, got a file that cannot be opened",))
    except ValueError as error:
        return Fields({}, (f"{file.relative}: {error}; the sidecar was ignored",))
    return read_fields(sidecar, file.relative)


def _folders(relative: str) -> Iterator[str]:
    """Yield the folders above a file, the nearest first. The last one is the source itself, an empty string."""
    folder = posixpath.dirname(relative)
    while folder:
        yield folder
        folder = posixpath.dirname(folder)
    yield ""
