"""Tables as text, with cells separated by commas, semicolons, tabs or bars, as programs and people write them.

The separator is found from the heading, since the column names are known: it is the one that gives most of them. (A
statistical guess, as by `csv.Sniffer` or DuckDB, finds commas in the prose of descriptions.) Quotes are strict: a quote
that is not closed spoils its own line and not the following ones.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from stages.audio.references import RequestRefused
from stages.requests.columns import known_column, nearest_column, plain_name
from stages.requests.lines import COLUMNS, DECIMALS, NUMBERS, Cells

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
"""The separators in the order in which they are tried, each with its name."""

EMPTY = frozenset(
    {
        *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"),
        *("NULL", "NaN", "NaT", "None", "n/a", "nan", "null"),
    }
)
"""Texts that mean an empty cell. They are those that `pandas.read_csv` reads as empty, since pandas writes them."""

DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")
WHOLE_COMMA = re.compile(r"\s*[+-]?\d+,00?\s*")
DECIMAL_POINT = re.compile(r"\s*[+-]?\d*\.\d+\s*")
THOUSANDS = re.compile(r"\s*[+-]?\d{1,3}(,\d{3})+\s*")
"""Numbers in text. A whole number may end in `,0`, because pandas writes it so in a column with empty cells. If commas
separate the cells, `1,000` more likely means a thousand than one."""


UNNAMED = re.compile(r"unnamed: ?\d+", re.IGNORECASE)
"""Names that this module and pandas give to a column without a name."""


@dataclass
class RawTable:
    """The content of a file before its columns are understood: cells by line number, and notes on what was guessed."""

    lines: list[tuple[int, Cells]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


BEYOND_ASCII = re.compile(rb"[\x80-\xff]+")
LONGEST_RUN = 3
"""The most bytes beyond ASCII that follow one another in Western European text in Windows-1252, such as `\xf6\xdf` in
Größe. Other writings in their own encodings have longer runs."""


def decode_text(data: bytes) -> tuple[str, str | None]:
    """Return a file's text, and the name of its encoding; None for UTF-8.

    Text is read as Windows-1252, as Excel writes it, if everything beyond ASCII looks like it and nothing like UTF-8.
    In other text a byte that is not UTF-8 becomes a surrogate, so that it spoils only its own line.

    Raises:
        UnicodeDecodeError: it has the mark or the zero bytes of UTF-16 or UTF-32 but is not valid.
    """
    for mark, encoding, name in (
        *((b"\xef\xbb\xbf", "utf-8", None), (b"\xff\xfe\0\0", "utf-32-le", "UTF-32")),
        *((b"\0\0\xfe\xff", "utf-32-be", "UTF-32"), (b"\xff\xfe", "utf-16-le", "UTF-16")),
        (b"\xfe\xff", "utf-16-be", "UTF-16"),
    ):
        if data.startswith(mark):
            errors = "surrogateescape" if encoding == "utf-8" else "strict"
            return data.removeprefix(mark).decode(encoding, errors), name
    for offset, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        # In UTF-16, Western letters have one byte of zero each; no text in UTF-8 has a byte of zero.
        halves = data[:1000][offset::2]
        if len(data) % 2 == 0 and len(halves) >= 4 and halves.count(0) * 2 > len(halves):
            return data.decode(encoding), "UTF-16"
    runs = BEYOND_ASCII.findall(data)
    if runs and all(len(run) <= LONGEST_RUN and not _is_utf8(run) for run in runs):
        try:
            return data.decode("cp1252"), "Windows-1252"
        except UnicodeDecodeError:  # five of its bytes have no meaning
            pass
    return data.decode("utf-8", "surrogateescape"), None


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def read_delimited(data: bytes, first_separator: str = ",") -> RawTable:
    """Read a table whose first line names its columns. In a file of plain lines without a heading, each line is a
    description.

    Args:
        first_separator: the separator to prefer if several give equally many known columns.

    Raises:
        ValueError: no line names the columns.
    """
    text, encoding = decode_text(data)
    lines = list(io.StringIO(text, newline=""))
    table = RawTable(notes=[f"read as {encoding}"] if encoding else [])
    skipped = next((number for number, line in enumerate(lines) if line.strip()), 0)
    stated = re.fullmatch(r"sep=(.)\s*", lines[skipped]) if lines else None
    if stated:  # a line that tells Excel how to read the file
        skipped += 1
    heading = _find_heading(lines, skipped, stated[1] if stated else None, first_separator)
    header, separator = heading.names, heading.separator
    if not any(known_column(name) for name in header):
        return _descriptions(table, lines, header)
    check_once(header, f"line {skipped + 1}")
    if separator != ",":
        table.notes.append(f"cells are separated by {SEPARATORS.get(separator, repr(separator))}")
    records = list(_records(lines, heading.end, separator))
    for number, record in records:
        cells = record if isinstance(record, RequestRefused) else _cells(header, record, separator)
        if cells:
            table.lines.append((number, cells))
    drop_index(table)
    _read_decimal_commas(table, separator)
    _note_long_records(table, records, len(lines))
    return table


@dataclass(frozen=True)
class _Heading:
    """The line that names the columns."""

    end: int
    """How many lines of the file there are up to the end of the heading."""
    separator: str
    names: Sequence[str]


def _find_heading(lines: Sequence[str], start: int, stated: str | None, first_separator: str) -> _Heading:
    """Return the heading, read with the separator that gives the most_known known columns.

    Args:
        start: how many lines of the file come before the heading.
        stated: the separator that the file itself states; None if it states none.
        first_separator: the separator to prefer if several give equally many known columns.
    """
    ranked = [stated] if stated else [first_separator, *(mark for mark in SEPARATORS if mark != first_separator)]
    best, most_known = _Heading(start, ranked[0], ()), -1
    for separator in ranked:
        reader = csv.reader(lines[start:], delimiter=separator, strict=True)
        try:
            names = [name.strip() or f"unnamed: {index}" for index, name in enumerate(next(reader, []))]
        except csv.Error:
            continue
        known = sum(1 for name in names if known_column(name))
        if known > most_known:
            most_known, best = known, _Heading(start + reader.line_num, separator, names)
    return best


def _descriptions(table: RawTable, lines: Sequence[str], header: Sequence[str]) -> RawTable:
    """Return the table of a file of plain lines, each a description.

    Raises:
        ValueError: the first line has several cells or a single word, so it may be a heading with unknown names.
    """
    first = next((line for line in lines if line.strip()), "")
    has_several_cells = len(header) > 1 or any(mark in first for mark in SEPARATORS)
    if has_several_cells or len(first.split()) < 2:
        near = [f"{name[:40]!r} may mean {column}" for name in header if (column := nearest_column(name))]
        hint = f" ({'; '.join(near)})" if near else ""
        raise ValueError(f"expected a first line with some of {', '.join(COLUMNS)}, got {first.strip()[:200]!r}{hint}")
    table.notes.append("no heading: each line is a description")
    table.lines = [(number, {"description": line.strip()}) for number, line in enumerate(lines, 1) if line.strip()]
    return table


def _records(lines: Sequence[str], start: int, separator: str) -> Iterator[tuple[int, list[str] | RequestRefused]]:
    """Yield the records after the heading, each with the number of the line in which it begins. After a record that
    cannot be parsed, continue with the next line."""
    while start < len(lines):
        reader = csv.reader((lines[index] for index in range(start, len(lines))), delimiter=separator, strict=True)
        first = start
        try:
            for cells in reader:
                yield first + 1, cells
                first = start + reader.line_num
            return
        except csv.Error as error:
            yield (
                first + 1,
                RequestRefused("unreadable", _explain(error, first + 1, start + reader.line_num, separator)),
            )
            start = first + 1


def _explain(error: csv.Error, first: int, last: int, separator: str) -> str:
    """Return what is wrong with the record that begins in line `first`, in the words of whoever wrote the file."""
    problem = str(error)
    if "end of data" in problem:
        return f"expected a closing double quote, got none to the end of the file: one opens in line {first}"
    if "expected after" in problem:
        where = "" if first == last else f" (one opens in line {first} and is closed in line {last})"
        name = SEPARATORS.get(separator, separator).removesuffix("s")
        return (
            f"expected a {name} or the line's end after a closing double quote, got other text{where}: close the "
            "open quote, and write a quote inside quotes twice"
        )
    return f"expected cells separated by {SEPARATORS.get(separator, separator)}, got {problem}"


def _cells(header: Sequence[str], record: Sequence[str], separator: str) -> Cells:
    """Return the non-empty cells of a record by heading."""
    if any(cell.strip() for cell in record[len(header) :]):
        separators = SEPARATORS.get(separator, separator)
        message = f"expected {len(header)} cells, got {len(record)}: put cells with {separators} in double quotes"
        return RequestRefused("unreadable", message)
    return {
        name: cell for name, cell in zip(header, record, strict=False) if cell.strip() and cell.strip() not in EMPTY
    }


def check_once(header: Sequence[str], where: str) -> None:
    """Check that no column is named twice.

    Raises:
        ValueError: a column is.
    """
    plain = [plain_name(name) for name in header]
    for name in plain:
        if plain.count(name) > 1:
            raise ValueError(f"expected each column once in {where}, got {name[:80]!r} twice")


def drop_index(table: RawTable) -> None:
    """Leave out a column without a name that only numbers the lines; pandas writes its index as such a column."""
    rows = [cells for _, cells in table.lines if isinstance(cells, dict)]
    for name in {name for cells in rows for name in cells if UNNAMED.fullmatch(name)}:
        numbers = [str(cells.get(name, "")).strip() for cells in rows]
        if all(number.isdecimal() for number in numbers) and len(set(numbers)) == len(numbers):
            for cells in rows:
                del cells[name]
            table.notes.append("a column without a name, which only numbers the lines, is left out")
    table.lines = [(number, cells) for number, cells in table.lines if cells]


def _read_decimal_commas(table: RawTable, separator: str) -> None:
    """Replace decimal commas in numbers by points, unless other numbers of the file have decimal points."""
    numbers = [
        (cells, name)
        for _, cells in table.lines
        if isinstance(cells, dict)
        for name in cells
        if known_column(name) in NUMBERS
    ]
    if any(DECIMAL_POINT.fullmatch(cells[name]) for cells, name in numbers):
        return
    commas = [
        (cells, name)
        for cells, name in numbers
        if (DECIMAL_COMMA if known_column(name) in DECIMALS else WHOLE_COMMA).fullmatch(cells[name])
    ]
    if separator == ",":
        commas = [(cells, name) for cells, name in commas if not THOUSANDS.fullmatch(cells[name])]
    for cells, name in commas:
        cells[name] = cells[name].replace(",", ".")
    if commas:
        table.notes.append("numbers have decimal commas")


def _note_long_records(
    table: RawTable, records: Sequence[tuple[int, list[str] | RequestRefused]], line_count: int
) -> None:
    """Add a note for each cell that spans several lines: a superfluous quote may have joined separate lines."""
    ends = [*(number for number, _ in records), line_count + 1][1:]
    for (number, record), after in zip(records, ends, strict=True):
        if isinstance(record, list) and after - number > 1:
            table.notes.append(f"a cell of line {number} extends to line {after - 1}")
