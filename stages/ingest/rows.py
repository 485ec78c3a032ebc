"""The rows of metadata files: CSV, JSON (a list or lines), gzipped JSON lines, Parquet.

Files come from spreadsheets, scripts and other people's computers. What cannot be parsed is described in one sentence,
`problem`, and the rest is used. What had to be guessed (an encoding, a separator) is a note. Memory stays within fixed
bounds, whatever a file claims or unpacks to.
"""

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from stages.audio.locations import AudioError, open_binary
from stages.ingest.lhotse_rows import recording_row
from stages.ingest.listing import File

TABLE_BYTES = 512 * 2**20
"""Larger files are not read."""

LIST_BYTES = 64 * 2**20
"""Larger JSON lists are not read, since parsed ones take ten times as much memory. Files of JSON lines may be
larger."""

LINE_BYTES = 2**20
"""Longest line of JSON that is parsed, in bytes."""

UNPACKED_BYTES = 2**30
"""Bytes after which the unpacking of a gzipped manifest stops."""

MANIFEST_COLUMN = "path"
"""The column that names the recording in a manifest; a table has another one."""

LEAST_BYTES = 64
"""Bytes that a line counts for at least, so that a file of empty lines is bounded too."""

SEPARATORS = (",", ";", "\t", "|")
"""Separators of columns in a CSV table, in the order in which they are tried on its heading."""

OTHER_ENCODING = "cp1252"
"""Encoding of lines in a CSV table that are not UTF-8: the one of editors and spreadsheets in Western countries."""


@dataclass
class MetadataRows:
    """The rows of a file, one after the other. After the last row `problem` and `notes` say what was wrong."""

    file: File
    column: str = ""
    """The column that the rows must have. A CSV table's separator is recognised by it."""
    problem: str = ""
    """What could not be read, in one sentence; empty if everything was."""
    notes: dict[str, str] = field(default_factory=dict)
    """What was guessed or repaired: an example of each, by what it is."""
    separator: str = ","
    """The separator of columns in a CSV table."""

    def __iter__(self) -> Iterator[Mapping[Any, Any]]:
        if self.file.size > TABLE_BYTES:
            self.problem = f"expected at most {TABLE_BYTES:,} bytes, got {self.file.size:,}"
            return
        try:
            with open_binary(self.file.uri) as opened:
                data = opened.read(TABLE_BYTES)
        except AudioError:
            self.problem = "expected a readable file, got one that cannot be opened"
            return
        for row in self._parser()(data, self):
            if isinstance(row, Mapping):
                yield recording_row(row, self.notes) if self.column == MANIFEST_COLUMN else row

    def naming(self) -> Iterator[tuple[str, Mapping[Any, Any]]]:
        """Yield the rows that have a file's name in `column`, each with that name."""
        columns: dict[str, None] = {}
        for row in self:
            by_name = {str(name).strip().lower(): value for name, value in row.items()}
            name = by_name.get(self.column)
            if isinstance(name, str) and name and len(name) < 4096:
                columns = {self.column: None}
                yield name, row
            elif len(columns) < 20:
                columns.update(dict.fromkeys(by_name))
        if self.column not in columns:
            got = ", ".join(list(columns)[:8]) or "none"
            self.problem = self.problem or f"expected rows with a column {self.column}, got {got[:200]}"

    def _parser(self) -> Callable[[bytes, "MetadataRows"], Iterator[Any]]:
        name = self.file.relative.lower()
        if name.endswith(".csv"):
            return _csv_rows
        if name.endswith(".parquet"):
            return _parquet_rows
        if name.endswith(".json"):
            return _json_list
        return _gzip_rows if name.endswith(".gz") else _json_rows


def parse_json(data: bytes) -> Any:
    """Parse a JSON value.

    Raises:
        ValueError: it is not JSON, not UTF-8, or nested too deeply.
    """
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"expected UTF-8, got other bytes at position {error.start:,}") from error
    except RecursionError as error:
        raise ValueError("expected plain JSON, got one nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"expected JSON, got {str(error)[:120]}") from error


def _csv_rows(data: bytes, rows: MetadataRows) -> Iterator[Any]:
    text = _decode(data, rows).replace("\0", "")
    heading = text.split("\n", 1)[0].rstrip("\r")
    rows.separator = next((each for each in SEPARATORS if rows.column in _columns(heading, each)), ",")
    if rows.separator != ",":
        shown = {"\t": "tabs"}.get(rows.separator, f"{rows.separator!r}")
        rows.notes[f"a table with columns separated by {shown}"] = heading[:80].replace("\t", " ")
    before = csv.field_size_limit(len(text) + 1)
    try:
        yield from csv.DictReader(io.StringIO(text, newline=""), delimiter=rows.separator)
    except csv.Error as error:
        rows.problem = f"expected a CSV table, got {error}"
    finally:
        csv.field_size_limit(before)


def _columns(heading: str, separator: str) -> list[str]:
    return [name.strip().strip('"').lower() for name in heading.split(separator)]


def _decode(data: bytes, rows: MetadataRows) -> str:
    """Return a CSV table's text. UTF-16 is recognised by its byte order mark. Lines that are not UTF-8 are read in
    `OTHER_ENCODING`. Bytes that fit neither become surrogates, so that only their own field is lost."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = data.decode("utf-16", errors="replace")
        rows.notes["a table in UTF-16"] = text[:60].partition("\n")[0]
        return text
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "".join(_decode_line(line, rows) for line in data.removeprefix(codecs.BOM_UTF8).splitlines(True))


def _decode_line(line: bytes, rows: MetadataRows) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        text = line.decode(OTHER_ENCODING, errors="surrogateescape")
        shown = re.sub("[\ud800-\udfff]", "\ufffd", text.strip())[:60]
        rows.notes.setdefault("lines that are not UTF-8, read as Windows-1252", shown)
        return text


def _json_list(data: bytes, rows: MetadataRows) -> Iterator[Any]:
    """Yield the objects of a list, of lines, or of one object whose keys are the names of files."""
    plain = data.removeprefix(codecs.BOM_UTF8).lstrip()
    if not plain.startswith(b"["):
        first = plain.partition(b"\n")[0]
        try:
            parse_json(first)
        except ValueError:
            pass
        else:
            if rows.column.encode() in first or plain.count(b"\n") > 1:
                yield from _json_rows(data, rows)
                return
    if len(data) > LIST_BYTES:
        rows.problem = f"expected a JSON list of at most {LIST_BYTES:,} bytes, got {len(data):,}: write lines instead"
        return
    try:
        value = parse_json(data)
    except ValueError as error:
        rows.problem = str(error)
        return
    if isinstance(value, Mapping):
        named = [{**row, rows.column: name} for name, row in value.items() if isinstance(row, Mapping)]
        value = named or [dict(value)]
    if not isinstance(value, list):
        rows.problem = f"expected a list of JSON objects, got {type(value).__name__}"
        return
    yield from value


def _json_rows(data: bytes, rows: MetadataRows) -> Iterator[Any]:
    yield from _json_lines(io.BytesIO(data.removeprefix(codecs.BOM_UTF8)), rows)


def _gzip_rows(data: bytes, rows: MetadataRows) -> Iterator[Any]:
    try:
        with gzip.open(io.BytesIO(data)) as unpacked:
            yield from _json_lines(unpacked, rows)
    except (OSError, EOFError, zlib.error) as error:
        rows.problem = f"expected a whole gzip file, got {error}"


def _json_lines(file: io.BufferedIOBase, rows: MetadataRows) -> Iterator[Any]:
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
                yield parse_json(line)
        except ValueError as error:
            broken += 1
            rows.problem = rows.problem or f"line {number}: {error}"
    if broken > 1:
        rows.problem += f" (and {broken - 1} more lines)"


def _parquet_rows(data: bytes, rows: MetadataRows) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        for batch in file.iter_batches(batch_size=4096):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
        rows.problem = f"expected a Parquet table, got {str(error)[:120]}"
