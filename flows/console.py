"""Lines for people: wrapped at words on a terminal, unbroken in a file or a pipe.

A terminal by itself breaks a long line wherever its last column is, in the middle of a word. What may be copied off it
stays in one piece: paths and ids, as they hold no spaces, and what stands in quotes or backticks, such as a command. A
piece that is wider than the terminal begins a line of its own, and is left to the terminal, off which it is copied
whole.
"""

import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

HANG = 4
"""Columns that what goes on of a line is indented by."""

NARROWEST = 40
"""Columns of a terminal below which lines are left to it."""

PIECE = re.compile(r"""(?:`[^`]*`|(?<![\w"'])"[^"]*"(?!\w)|(?<![\w"'])'[^']*'(?!\w)|\S)+""")
"""What is not broken: letters without a space between them, and spans in backticks or quotes, with the brackets and
stops around them. An apostrophe within a word opens no span."""


def say(line: str, hang: int = HANG) -> None:
    """Print a line of an answer to standard output."""
    _write(line, sys.stdout, hang)


def tell(line: str, hang: int = HANG) -> None:
    """Print a line on what goes on, or on what went wrong, to standard error."""
    _write(line, sys.stderr, hang)


def wrap(line: str, width: int, hang: int = HANG) -> str:
    """Return a line broken at words, so that no part is wider than a terminal but for single pieces that are.

    Args:
        width: columns of the terminal; below `NARROWEST` lines are left as they are.
        hang: columns that what goes on is indented by, beyond the line's own indent.
    """
    return "\n".join(part for each in line.split("\n") for part in _parts(each, width, hang))


def _parts(line: str, width: int, hang: int) -> Iterator[str]:
    """Yield one line in parts. A quoted text that is too wide for a line of its own and is no path is broken too."""
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
    """Yield where each piece of a line begins and ends."""
    for match in PIECE.finditer(line):
        begin, end = match.span()
        quoted = match[0].strip("([{").startswith(("'", '"'))
        if _cells(match[0]) <= room or not quoted or "/" in match[0]:
            yield begin, end
        else:
            yield from (word.span() for word in re.compile(r"\S+").finditer(line, begin, end))


def typed_place(place: str) -> str:
    """Return a path or URL as a person would type it in a shell: on a terminal by its path from the current folder,
    where it lies in that; elsewhere, where the line may be read on another day, whole."""
    path, here = Path(place), Path.cwd()
    if terminal_columns(sys.stderr) is not None and path.is_relative_to(here) and path != here:
        place = str(path.relative_to(here))
    return shlex.quote(place)


def _write(line: str, stream: TextIO, hang: int) -> None:
    columns = terminal_columns(stream)
    print(line if columns is None else wrap(line, columns, hang), file=stream, flush=True)


def _cells(text: str) -> int:
    """Return the columns that a text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # a first line does not wait for its tables

    return cell_len(text)


def terminal_columns(stream: TextIO) -> int | None:
    """Return how wide the terminal is that a stream goes to; None where it goes to none. `COLUMNS` has the last word,
    as it has with other programs."""
    if not stream.isatty():
        return None
    asked = os.environ.get("COLUMNS", "")
    if asked.isdigit():
        return int(asked)
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):  # it says that it is a terminal, and has no size
        return None
