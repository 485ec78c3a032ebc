"""Rows out of metadata files: CSV, JSON lines (gzipped too) and Parquet, as far as they can be read.

What cannot be parsed is told in one sentence and the rest is used; nothing here grows beyond set bounds, whatever a
file claims or unpacks to.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stages.audio.locations import AudioError, open_binary
from stages.ingest.listing import File

LINE_BYTES = 2**20
"""Longest line of JSON that is parsed."""

UNPACKED_BYTES = 2**30
"""Where the unpacking of a gzipped manifest stops."""


LEAST_BYTES = 64
"""What a line counts for at least, so that a file of empty lines is bounded too."""


@dataclass
class Rows:
    """The rows of a file, one after the other; when they are through, `problem` says what could not be read."""

    file: File
    longest: int
    """Bytes beyond which the file is not read at all."""
    problem: str = ""

    def __iter__(self) -> Iterator[Mapping[Any, Any]]:
        if self.file.size > self.longest:
            self.problem = f"expected at most {self.longest:,} bytes, got {self.file.size:,}"
            return
        try:
            with open_binary(self.file.uri) as opened:
                data = opened.read(self.longest)
        except AudioError:
            self.problem = "expected a file that may be read, got one that may not"
            return
        for row in self._parser()(data, self):
            if isinstance(row, Mapping):
                yield row

    def _parser(self) -> Callable[[bytes, "Rows"], Iterator[Any]]:
        name = self.file.relative.lower()
        if name.endswith(".csv"):
            return _csv_rows
        if name.endswith(".parquet"):
            return _parquet_rows
        return _gzip_rows if name.endswith(".gz") else _json_rows


def read_json(data: bytes | str) -> Any:
    """A JSON value.

    Raises:
        ValueError: it is no JSON, not UTF-8, or nested deeper than anything that people write.
    """
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        return json.loads(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"expected UTF-8, got other bytes at place {error.start:,}") from error
    except RecursionError as error:
        raise ValueError("expected plain JSON, got one nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"expected JSON, got {str(error)[:120]}") from error


def _csv_rows(data: bytes, rows: Rows) -> Iterator[Any]:
    # Bytes that are no UTF-8 become surrogates, which cost their own field alone.
    text = data.decode("utf-8-sig", errors="surrogateescape").replace("\0", "")
    before = csv.field_size_limit(len(text) + 1)
    try:
        yield from csv.DictReader(io.StringIO(text, newline=""))
    except csv.Error as error:
        rows.problem = f"expected a CSV table, got {error}"
    finally:
        csv.field_size_limit(before)


def _json_rows(data: bytes, rows: Rows) -> Iterator[Any]:
    yield from _lines(io.BytesIO(data), rows)


def _gzip_rows(data: bytes, rows: Rows) -> Iterator[Any]:
    try:
        with gzip.open(io.BytesIO(data)) as unpacked:
            yield from _lines(unpacked, rows)
    except (OSError, EOFError, zlib.error) as error:
        rows.problem = f"expected a whole gzip file, got {error}"


def _lines(file: Any, rows: Rows) -> Iterator[Any]:
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
                yield read_json(line)
        except ValueError as error:
            broken += 1
            rows.problem = rows.problem or f"line {number}: {error}"
    if broken > 1:
        rows.problem += f" (and {broken - 1} more lines)"


def _parquet_rows(data: bytes, rows: Rows) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        for batch in file.iter_batches(batch_size=4096):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
        rows.problem = f"expected a Parquet table, got {str(error)[:120]}"
