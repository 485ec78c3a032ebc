"""The answer to a query as a table to read, CSV for spreadsheets, or JSON for programs."""

import csv
import json
import math
import sys
from datetime import date, datetime, time, timedelta
from typing import Any, Literal

import pyarrow as pa
from rich.console import Console

from flows.output import print_table

LONGEST_CELL = 60
"""Characters of a cell in a table; CSV and JSON hold all of them."""


def print_answer(answer: pa.Table, format: Literal["table", "csv", "json"], console: Console) -> None:
    """Print rows to standard output."""
    rows = [{name: _plain(value) for name, value in row.items()} for row in _rows(answer)]
    if format == "json":
        json.dump(rows, sys.stdout, ensure_ascii=False, indent=1, allow_nan=False)
        print()
    elif format == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(answer.column_names)
        writer.writerows([_cell(value) for value in row.values()] for row in rows)
    else:
        print_table(console, [{name: _short(value) for name, value in row.items()} for row in rows])
        print(f"({len(rows)} row{'' if len(rows) == 1 else 's'})")


def _rows(answer: pa.Table) -> list[dict[str, Any]]:
    """Rows by column name; a name that stands twice gets a number."""
    names: list[str] = []
    for name in answer.column_names:
        names.append(name if name not in names else f"{name}_{len(names)}")
    return answer.rename_columns(names).to_pylist()


def _plain(value: Any) -> Any:
    """A value as JSON knows it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        if value and all(isinstance(item, tuple) and len(item) == 2 for item in value):  # a map
            return {str(name): _plain(item) for name, item in value}
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _short(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        text = str(_cell(value))
        return text if len(text) <= LONGEST_CELL else f"{text[: LONGEST_CELL - 1]}…"
    return value if isinstance(value, int) else f"{value:.6g}"
