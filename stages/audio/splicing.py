"""Files made of pieces of another file. A decoder gets such a file if a header is wrong, if bytes between frames are
not sound, or if the original holds several recordings."""

import io
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import IO, Any


@dataclass(frozen=True)
class Span:
    """The bytes of a file from `start` up to `end`."""

    start: int
    end: int


Piece = bytes | Span
"""Literal bytes, or a span of the underlying file."""


def splice(file: IO[bytes], pieces: Sequence[Piece]) -> io.BufferedReader:
    """Return a file that reads as `pieces`, one after the other. Closing it leaves `file` open."""
    return io.BufferedReader(_Spliced(file, pieces), 2**16)


class _Spliced(io.RawIOBase):
    """A file that reads as pieces of another one after the other."""

    def __init__(self, file: IO[bytes], pieces: Sequence[Piece]) -> None:
        self._file, self._pieces, self._position = file, pieces, 0
        lengths = [len(piece) if isinstance(piece, bytes) else piece.end - piece.start for piece in pieces]
        self._starts = [0, *accumulate(lengths)]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = max(0, offset + (0, self._position, self._starts[-1])[whence])
        return self._position

    def readinto(self, buffer: Any) -> int:
        number = bisect_right(self._starts, self._position) - 1
        if number >= len(self._pieces):
            return 0
        piece, offset = self._pieces[number], self._position - self._starts[number]
        wanted = min(len(buffer), self._starts[number + 1] - self._position)
        if isinstance(piece, bytes):
            data = piece[offset : offset + wanted]
        else:
            self._file.seek(piece.start + offset)
            data = self._file.read(wanted)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
