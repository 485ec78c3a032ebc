"""Requests files: text tables, JSON, spreadsheets and Parquet, read whole into lines that ask for clips.

A bad line never keeps the other lines from being read. A file that is no requests file at all is one `ValueError`.
"""

import csv
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from stages.audio.references import RequestRefused
from stages.requests.columns import columns_of, nearest_column, plain_name
from stages.requests.delimited import RawTable, decode_text, read_delimited
from stages.requests.lines import COLUMNS, Cells, RequestLine, parse_line
from stages.requests.spreadsheets import read_spreadsheet

LISTS = ("requests", "data", "items", "rows")
"""Names under which a JSON object may hold the list of requests."""

PANDAS_INDEX = re.compile(r"__index_level_\d+__")
"""The column in which pandas stores a table's index in Parquet."""


@dataclass(frozen=True)
class Line:
    """One line of a requests file."""

    number: int
    """The line number in a text, or the row on a sheet, or the position in Parquet or a JSON list (from 1)."""
    name: str | None
    """The name that the line states, even if the rest of it is wrong."""
    asked: RequestLine | RequestRefused
    """What the line asks for, or why it is refused."""


@dataclass(frozen=True)
class RequestsFile:
    """The non-empty lines of a requests file, and notes on what was guessed about it, each a sentence."""

    lines: list[Line]
    notes: list[str]


def read_requests_file(url: str) -> RequestsFile:
    """Read a requests file.

    Args:
        url: path or fsspec URL of a file with one of the extensions in `READERS`; `.gz` and the like are unpacked.

    Raises:
        ValueError: the file does not exist, cannot be parsed, or asks for nothing.
    """
    unpacked = re.sub(r"\.(gz|bz2|xz|zst)$", "", url.lower())
    suffix = next((suffix for suffix in READERS if unpacked.endswith(suffix)), None)
    if suffix is None:
        raise ValueError(f"expected requests in a {', '.join(READERS)} file, got {url}")
    try:
        with fsspec.open(url, "rb", compression="infer") as file:
            data = file.read()
    except FileNotFoundError as error:
        raise ValueError(f"expected a requests file at {url}, got nothing there") from error
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(f"expected a requests file at {url}, got {type(error).__name__}: {error}") from error
    try:
        table = READERS[suffix](data)
    except (pa.ArrowException, ValueError, csv.Error, RecursionError) as error:
        raise ValueError(f"expected requests as {suffix} in {url}: {error}") from error
    if not table.lines:
        raise ValueError(f"expected at least one request in {url}, got none")
    return _understand(table)


def _understand(table: RawTable) -> RequestsFile:
    """Return the lines of a table, with its columns read as those that their headings mean."""
    rows = [cells for _, cells in table.lines if isinstance(cells, dict)]
    names = list(dict.fromkeys(name for cells in rows for name in cells))
    prompts = [cells[name] for cells in rows for name in cells if plain_name(name) == "prompt"]
    columns = columns_of(names, prompts)
    renamed = [
        f"{name!r} is read as {column}"
        for name, column in columns.items()
        if column in COLUMNS and plain_name(name) != column
    ]
    lines = []
    for number, cells in table.lines:
        known = _rename(cells, columns)
        name = known.get("name") if isinstance(known, dict) else None
        lines.append(Line(number, None if name is None else " ".join(str(name).split()), parse_line(known)))
    return RequestsFile(lines, [*table.notes, *([f"columns: {', '.join(renamed)}"] if renamed else [])])


def _rename(cells: Cells, columns: Mapping[str, str]) -> Cells:
    """Return the cells of a line by the columns that their headings mean, or a refusal that names an unknown
    heading."""
    if isinstance(cells, RequestRefused):
        return cells
    unknown = [name for name in cells if columns[name] not in COLUMNS]
    if unknown:
        near = [f"did you mean {column}?" for name in unknown if (column := nearest_column(name))]
        message = f"expected the columns {', '.join(COLUMNS)}, got {', '.join(repr(name)[:40] for name in unknown)}"
        return RequestRefused("unknown column", f"{message}{f': {near[0]}' if near else ''}")
    renamed: dict[str, Any] = {}
    for name, cell in cells.items():
        if columns[name] in renamed:
            both = [repr(other) for other in cells if columns[other] == columns[name]]
            return RequestRefused("bad value", f"expected {columns[name]} once, got {' and '.join(both)}")
        renamed[columns[name]] = cell
    return renamed


def _read_json(data: bytes) -> RawTable:
    """Read a list of objects, an object that contains such a list, or one object a line."""
    text, encoding = decode_text(data)
    table = RawTable(notes=[f"read as {encoding}"] if encoding else [])
    values = _parse_whole(text)
    if values is None:
        table.lines = [
            (number, _parse_json_line(line)) for number, line in enumerate(text.split("\n"), start=1) if line.strip()
        ]
    else:
        table.lines = [(number, _object(value, "in the list")) for number, value in enumerate(values, start=1)]
    return table


def _parse_whole(text: str) -> list[Any] | None:
    """Return the requests of a text that is one JSON value; None if it has one value a line, or cannot be parsed as one
    value.

    Raises:
        ValueError: the text is a broken list that spans several lines.
    """
    begin = text.lstrip()[:1]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if begin == "[" and isinstance(_parse_json_line(text.lstrip().split("\n")[0]), RequestRefused):
            raise ValueError(f"got a broken JSON list: {str(error)[:120]}") from error
        return None
    if isinstance(value, dict):
        return next((value[name] for name in LISTS if isinstance(value.get(name), list)), [value])
    return value if isinstance(value, list) else None


def _parse_json_line(line: str) -> Cells:
    try:
        return _object(json.loads(line), "a line")
    except (ValueError, RecursionError) as error:
        return RequestRefused("unreadable", f"expected one JSON object a line, got {str(error)[:120]}")


def _object(value: Any, where: str) -> Cells:
    if isinstance(value, dict):
        return _without_empty(value)
    return RequestRefused("unreadable", f"expected one JSON object {where}, got {str(value)[:80]}")


def _read_parquet(data: bytes) -> RawTable:
    rows = pq.read_table(pa.BufferReader(data)).to_pylist()
    rows = [{name: value for name, value in row.items() if not PANDAS_INDEX.fullmatch(name)} for row in rows]
    return RawTable([(number, _without_empty(row)) for number, row in enumerate(rows, start=1)])


def _without_empty(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values without null, NaN, empty texts and empty lists, which ask for nothing."""
    return {name: value for name, value in values.items() if value not in (None, "", []) and not _is_nan(value)}


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


READERS: Mapping[str, Callable[[bytes], RawTable]] = {
    ".csv": read_delimited,
    ".tsv": partial(read_delimited, first_separator="\t"),
    ".txt": read_delimited,
    ".json": _read_json,
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".parquet": _read_parquet,
    ".xlsx": read_spreadsheet,
}
"""Extension of a file's name -> the function that reads it."""
