"""Answers to queries, for people and programs: tables, records, Markdown, CSV, JSON and Parquet.

On a terminal, an answer that is too wide is printed as records with a line for each column, and ids are shortened as
far as they stay distinct. Elsewhere, and with `--full`, everything is printed whole.
"""

import csv
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from flows.runs.output import BETWEEN, longest_word, print_table

Format = Literal["table", "markdown", "csv", "json", "parquet"]
"""The formats of an answer."""

LONGEST_LIST = 60
"""The most characters of a list in a cell, such as codes or a vector, if answers are shortened."""

SHORTEST_ID = 12
"""The fewest digits of an id that are shown. Commands accept them, and they are unique among millions of ids."""

NARROWEST = 24
"""The narrowest width of a text column, in terminal columns. If a table needs less, it is printed as records."""

ID = re.compile(r"(\w+:)?([0-9a-f]{16,64})")
"""An id, or a reference with an id, such as `track:…`."""

Shown = Mapping[str, Any]
"""A row by column, with values that JSON can hold."""


def print_answer(answer: pa.Table, format: Format, console: Console, full: bool = True) -> None:
    """Print the answer to a query to standard output.

    Args:
        full: whether a table has whole ids, lists and numbers; the other formats always do.

    Raises:
        ValueError: Parquet is asked for on a terminal.
    """
    if format == "parquet":
        _write_parquet(answer)
        return
    rows = [{name: _json_value(value) for name, value in row.items()} for row in _answer_rows(answer)]
    if format == "json":
        json.dump(rows, sys.stdout, ensure_ascii=False, indent=1, allow_nan=False)
        print()
    elif format == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(answer.column_names)
        writer.writerows([_csv_cell(value) for value in row.values()] for row in rows)
    elif format == "markdown":
        print("\n".join(_markdown_lines(answer.column_names, rows)))
    else:
        print_rows(console, rows, full)
        print(f"({len(rows)} row{'' if len(rows) == 1 else 's'})")


def print_rows(console: Console, rows: Sequence[Shown], full: bool = True) -> None:
    """Print rows as a table, or as records if the table is wider than the console."""
    length = None if full else _id_length(rows)
    cells = [{name: _table_cell(value, length) for name, value in row.items()} for row in rows]
    if fits(cells, console.width):
        print_table(console, cells)
    else:
        _print_records(console, cells)


def print_record(console: Console, row: Shown) -> None:
    """Print a whole row with a line for each column; on a terminal, numbers are rounded for reading."""
    values = {name: _json_value(value) for name, value in row.items()}
    if console.is_terminal:
        values = {name: _with_short_numbers(value) for name, value in values.items()}
    lines = {
        name: _lines(value) if isinstance(value, dict) else _table_cell(value, None) for name, value in values.items()
    }
    _print_record(console, lines)


def _lines(values: Shown) -> str:
    """Return the entries of a map, such as a checkpoint's metrics, one on each line."""
    return "\n".join(f"{name}: {_table_cell(value, None)}" for name, value in values.items())


def _write_parquet(answer: pa.Table) -> None:
    if sys.stdout.isatty():
        raise ValueError("expected a file or a program to write Parquet to, got a terminal: add > answer.parquet")
    sink = pa.BufferOutputStream()
    pq.write_table(answer, sink, compression="zstd")
    sys.stdout.flush()
    sys.stdout.buffer.write(sink.getvalue())
    sys.stdout.buffer.flush()


def _markdown_lines(names: Sequence[str], rows: Sequence[Shown]) -> list[str]:
    cells = [[_table_cell(value, None) for value in row.values()] for row in rows]
    lines = [list(names), ["---"] * len(names), *cells]
    return ["| " + " | ".join(_markdown_cell(cell) for cell in line) + " |" for line in lines]


def _markdown_cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", "<br>")


def fits(rows: Sequence[Shown], width: int) -> bool:
    """Return whether rows fit a width as a table in which texts are wrapped between words."""
    if not rows:
        return True
    widths = []
    for name in rows[0]:
        texts = [str(row[name]) for row in rows]
        widest = max(cell_len(line) for text in (name, *texts) for line in text.split("\n"))
        widths.append(min(widest, max(longest_word(name, rows), NARROWEST)))
    return sum(widths) + BETWEEN * (len(widths) - 1) <= width


def _print_records(console: Console, rows: Sequence[Shown]) -> None:
    for number, row in enumerate(rows, start=1):
        console.print(Text(f"row {number} of {len(rows)}", style="bold"))
        _print_record(console, row)
        console.print()


def _print_record(console: Console, row: Shown) -> None:
    grid = Grid(box=None, pad_edge=False, show_header=False)
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for name, value in row.items():
        grid.add_row(Text(name), Text(str(value)))
    console.print(grid)


def _answer_rows(answer: pa.Table) -> list[dict[str, Any]]:
    """Return rows by column name; a repeated name gets a number. A number of single precision becomes the double with
    the same shortest digits: 0.91, not 0.9100000262…."""
    names: list[str] = []
    for name in answer.column_names:
        names.append(name if name not in names else f"{name}_{len(names)}")
    columns = [
        column.cast(pa.string()).cast(pa.float64()) if pa.types.is_float32(column.type) else column
        for column in answer.columns
    ]
    rows: list[dict[str, Any]] = pa.table(columns, names=names).to_pylist()
    return rows


def _json_value(value: Any) -> Any:
    """Return a value in a form that JSON can hold; NaN and infinities become None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime | date | time_of_day):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(name): _json_value(item) for name, item in value.items()}
    if isinstance(value, list):
        if value and all(isinstance(item, tuple) and len(item) == 2 for item in value):  # Arrow's form of a map
            return {str(name): _json_value(item) for name, item in value}
        return [_json_value(item) for item in value]
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _csv_cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _table_cell(value: Any, id_length: int | None) -> Any:
    """Return the content of a table's cell.

    Args:
        id_length: how many digits ids are shortened to; lists and numbers are shortened too. None shortens nothing.
    """
    if value is None:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _short_number(value) if isinstance(value, float) and id_length else value
    text = str(_csv_cell(_with_short_ids(_with_short_numbers(value), id_length) if id_length else value))
    is_list = isinstance(value, list | dict)
    return f"{text[: LONGEST_LIST - 1]}…" if id_length and is_list and len(text) > LONGEST_LIST else text


def _short_number(value: float) -> str:
    """Return a number with six significant digits, or with all digits before its point if it has more."""
    return f"{value:.0f}" if 1e6 <= abs(value) < 1e15 else f"{value:.6g}"


def _with_short_numbers(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_short_numbers(item) for item in value]
    if isinstance(value, dict):
        return {name: _with_short_numbers(item) for name, item in value.items()}
    return float(_short_number(value)) if isinstance(value, float) else value


def _with_short_ids(value: Any, length: int) -> Any:
    if isinstance(value, list):
        return [_with_short_ids(item, length) for item in value]
    match = ID.fullmatch(value) if isinstance(value, str) else None
    return f"{match[1] or ''}{match[2][:length]}" if match else value


def _id_length(rows: Sequence[Shown]) -> int:
    """Return how many digits distinguish all ids of some rows, at least `SHORTEST_ID`."""
    ids = {match[2] for row in rows for match in map(ID.fullmatch, _texts(list(row.values()))) if match}
    length = SHORTEST_ID
    while len({identity[:length] for identity in ids}) < len(ids):
        length += 1
    return length


def _texts(value: Any) -> list[str]:
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) else []
