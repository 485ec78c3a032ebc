"""Spreadsheets (`.xlsx`): the sheet that names columns, with its values as they were last saved."""

import io
import zipfile
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from stages.audio.references import RequestRefused
from stages.requests.columns import known_column
from stages.requests.delimited import EMPTY, RawTable, check_once, drop_index
from stages.requests.lines import COLUMNS, Cells

if TYPE_CHECKING:
    from openpyxl.workbook import Workbook

ROWS_BEFORE_HEADING = 20
"""How many rows of a sheet are searched for its heading; people put a title and a date above it."""


def read_spreadsheet(data: bytes) -> RawTable:
    """Read the first sheet with a row that names columns. The number of a line is the number of its row.

    Raises:
        ValueError: the file is not a spreadsheet, or names no columns.
    """
    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        values = load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        formulas = load_workbook(io.BytesIO(data), read_only=True, data_only=False)
    except (InvalidFileException, zipfile.BadZipFile, KeyError, OSError, SyntaxError, TypeError) as error:
        raise ValueError(f"got another or a damaged file: {error}") from error
    for name in _sheets(values):
        rows, written = _rows(values, name), _rows(formulas, name)
        heading = next((index for index, row in enumerate(rows[:ROWS_BEFORE_HEADING]) if _names_columns(row)), None)
        if heading is not None:
            table = _read_sheet(rows, written, heading)
            others = [f"{other!r}" for other in values.sheetnames if other != name]
            if others:
                table.notes.append(f"the sheet {name!r} is read, not {', '.join(others)}")
            return table
    raise ValueError(f"expected a sheet with a row that names some of {', '.join(COLUMNS)}, got none")


def _sheets(book: "Workbook") -> list[str]:
    """Return the names of the sheets with cells; the sheet that was open last comes first."""
    active = book.active.title if book.active is not None else None
    sheets = [sheet.title for sheet in book.worksheets]
    return sorted(sheets, key=lambda name: name != active)


def _rows(book: "Workbook", name: str) -> list[Sequence[Any]]:
    sheet = book[name]
    sheet.reset_dimensions()  # some programs write wrong dimensions, and then only a part would be read
    return list(sheet.iter_rows(values_only=True))


def _names_columns(row: Sequence[Any]) -> bool:
    names = [cell for cell in row if cell not in (None, "")]
    known = sum(1 for name in names if isinstance(name, str) and known_column(name))
    return known > 0 and known * 2 >= len(names)


def _read_sheet(rows: Sequence[Sequence[Any]], written: Sequence[Sequence[Any]], heading: int) -> RawTable:
    names = ["" if cell is None else str(cell).strip() for cell in rows[heading]]
    header = [name or f"unnamed: {index}" for index, name in enumerate(names)]
    check_once(header, f"row {heading + 1}")
    table = RawTable(notes=[f"the heading is row {heading + 1}"] if heading else [])
    for index in range(heading + 1, len(rows)):
        cells = _cells(header, rows[index], written[index] if index < len(written) else ())
        if cells:
            table.lines.append((index + 1, cells))
    drop_index(table)
    return table


def _cells(header: Sequence[str], row: Sequence[Any], written: Sequence[Any]) -> Cells:
    """Return the non-empty cells of a row by heading, or why the row cannot be read.

    Args:
        row: the values as they were when the file was last saved.
        written: the same cells with their formulas.
    """
    from openpyxl.utils import get_column_letter

    cells: dict[str, Any] = {}
    for index, value in enumerate(row):
        column, name = get_column_letter(index + 1), header[index] if index < len(header) else f"unnamed: {index}"
        formula = written[index] if index < len(written) else None
        if value is None and isinstance(formula, str) and formula.startswith("="):
            message = (
                f"expected a value in column {column}, got the formula {formula[:80]} without a saved result: "
                "open it in a spreadsheet program and save it"
            )
            return RequestRefused("unreadable", message)
        text = value.strip() if isinstance(value, str) else value
        if text in (None, "") or (isinstance(text, str) and text in EMPTY):
            continue
        if isinstance(text, date | datetime | time | timedelta):
            message = f"{name}: expected text or a number, got the date {text} in column {column}: format it as text"
            return RequestRefused("bad value", message)
        cells[name] = text
    return cells
