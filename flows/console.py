"""Lines for people: wrapped at words on a terminal, unbroken in a file or a pipe.

By itself, a terminal breaks a long line at its last column, in the middle of a word. Here, text that may be copied
stays in one piece: paths and ids, since they contain no spaces, and text in quotes or backticks, such as a command. A
piece that is wider than the terminal begins a line of its own. The terminal breaks it, so it can be copied whole.
"""

import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

HANG = 4
"""Columns by which the continuation of a line is indented."""

NARROWEST = 40
"""On a terminal with fewer columns, lines are not wrapped here."""

PIECE = re.compile(r"""(?:`[^`]*`|(?<![\w"'])"[^"]*"(?!\w)|(?<![\w"'])'[^']*'(?!\w)|\S)+""")
"""A piece that is not broken: characters without a space between them, and spans in backticks or quotes, with adjoining
brackets and punctuation. An apostrophe within a word opens no span."""


def say(line: str, hang: int = HANG) -> None:
    """Print a line of a command's result to standard output."""
    _write(line, sys.stdout, hang)


def tell(line: str, hang: int = HANG) -> None:
    """Print a line about progress or an error to standard error."""
    _write(line, sys.stderr, hang)


def wrap(line: str, width: int, hang: int = HANG) -> str:
    """Return a line broken at words, so that no part is wider than the terminal, except single pieces that are.

    Args:
        width: columns of the terminal; below `NARROWEST`, lines are returned as they are.
        hang: columns by which continuations are indented, beyond the line's own indent.
    """
    return "\n".join(part for each in line.split("\n") for part in _parts(each, width, hang))


def _parts(line: str, width: int, hang: int) -> Iterator[str]:
    """Yield the parts of one line. Quoted text that is too wide for a line of its own is broken too, unless it is a
    path."""
    if width < NARROWEST or _cells(line) <= width:
        yield line
        return
    indent = line[: len(line) - len(line.lstrip())]
    onward = indent + " " * min(hang, width // 2)
    part, end = indent, len(indent)
    for begin, piece_end in _pieces(line, width - len(onward)):
        between, piece = line[end:begin], line[begin:piece_end]
        end = piece_end
        if not part.strip() or _cells(part + between + piece) <= width:
            part += between + piece
        else:
            yield part
            part = (onward if _cells(onward + piece) <= width else indent) + piece
    yield part


def _pieces(line: str, room: int) -> Iterator[tuple[int, int]]:
    """Yield where each piece of a line begins and ends. `room` is the width of a continuation line, in columns."""
    for match in PIECE.finditer(line):
        begin, end = match.span()
        quoted = match[0].strip("([{").startswith(("'", '"'))
        if _cells(match[0]) <= room or not quoted or "/" in match[0]:
            yield begin, end
        else:
            yield from (word.span() for word in re.compile(r"\S+").finditer(line, begin, end))


def typed_place(place: str) -> str:
    """Return a path or URL, quoted for a shell, as a person would type it. On a terminal, a path inside the current
    folder is relative to it. Elsewhere the path is whole, because the line may be read another day."""
    path, here = Path(place), Path.cwd()
    if terminal_columns(sys.stderr) is not None and path.is_relative_to(here) and path != here:
        place = str(path.relative_to(here))
    return shlex.quote(place)


def _write(line: str, stream: TextIO, hang: int) -> None:
    """Print a line to a stream, wrapped if the stream is a terminal."""
    columns = terminal_columns(stream)
    print(line if columns is None else wrap(line, columns, hang), file=stream, flush=True)


def _cells(text: str) -> int:
    """Return how many terminal columns a text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # imported late, so that a run's first line does not wait for it

    return cell_len(text)


def terminal_columns(stream: TextIO) -> int | None:
    """Return the width of the terminal that a stream goes to, in columns; None if it goes to none. The environment
    variable `COLUMNS` takes precedence, as in other programs."""
    if not stream.isatty():
        return None
    asked = os.environ.get("COLUMNS", "")
    if asked.isdigit():
        return int(asked)
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):  # a terminal without a size
        return None
