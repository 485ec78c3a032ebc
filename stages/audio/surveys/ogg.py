"""Ogg (RFC 3533): pages with a checksum each, which say what stream they belong to and where it begins and ends.

Streams may follow each other in a file ("chained"). libsndfile reads only the first, and replaces lost pages with sound
that it makes up. So the pages are walked over, without decoding.
"""

import zlib
from dataclasses import dataclass, field
from typing import IO

from stages.audio.locations import AudioError
from stages.audio.splicing import Span
from stages.audio.surveys.layout import Layout, Part
from stages.audio.tolerances import JUNK_BYTES, RESTORE

FIRST_PAGE, LAST_PAGE = 2, 4
"""Flags of a page that begins a stream, and of one that ends it."""

_MIRRORED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))
"""Each byte with its bits in reverse: Ogg's checksum starts from the other end of a byte than zlib's."""


@dataclass
class _Link:
    """Streams that run in parallel."""

    start: int
    end: int = 0
    streams: set[int] = field(default_factory=set)
    open_streams: set[int] = field(default_factory=set)
    has_content: bool = False
    """Whether a page was read that does not begin a stream."""
    continues: bool = False
    """Whether a page was read after the last page of its stream."""
    damaged: int = 0
    """Number of pages that are damaged or lost."""
    next_numbers: dict[int, int] = field(default_factory=dict)
    """Expected number of the next page of each stream."""


@dataclass
class _Walk:
    """What the pages of a file, from beginning to end, show."""

    links: list[_Link] = field(default_factory=list)
    cut_page: bool = False
    """Whether the last page is cut."""
    bytes_outside: int = 0
    """Bytes outside all pages."""


def survey_ogg(file: IO[bytes]) -> Layout:
    """Walk over the pages of an Ogg file.

    Raises:
        AudioError: there is no stream, or the file ends in the middle of one.
    """
    walk = _walk(file)
    links = walk.links
    if not links:
        raise AudioError("unreadable", f"expected Ogg, got a file with no whole page that begins a stream; {RESTORE}")
    if walk.cut_page and links[-1].open_streams:
        got = "a file that ends in the middle of a page"
        raise AudioError(
            "truncated", f"expected an Ogg stream to its last page, got {got}: it was cut short; {RESTORE}"
        )
    remarks = []
    if len(links) > 1:
        remarks.append(f"expected one recording, got {len(links)} Ogg streams joined in one file: read as one")
    if any(link.continues for link in links):
        remarks.append("expected nothing after the page that ends the stream, got more pages: used them too")
    if links[-1].open_streams:
        remarks.append("expected a page that ends the stream, got a file without one: used what is there")
    damaged = sum(link.damaged for link in links)
    if damaged:
        remarks.append(f"expected pages with right checksums, got {damaged} that are damaged or lost")
    if walk.bytes_outside > JUNK_BYTES:
        remarks.append(f"expected only Ogg pages, got {walk.bytes_outside:,} other bytes: ignored")
    parts = [
        Part(
            (Span(link.start, link.end),) if len(links) > 1 else None,
            needs_ffmpeg=link.continues or link.damaged > 0,
        )
        for link in links
    ]
    return Layout(tuple(parts), tuple(remarks))


def _walk(file: IO[bytes]) -> _Walk:
    """Return what the pages of a file show."""
    walk, position = _Walk(), 0
    file.seek(position)
    while header := file.read(27):
        lengths = file.read(header[26]) if len(header) == 27 and header[:4] == b"OggS" else b""
        body = file.read(sum(lengths))
        size = 27 + len(lengths) + len(body)
        walk.cut_page = header[:4] == b"OggS" and (len(header) < 27 or 27 + header[26] + sum(lengths) > size)
        if walk.cut_page or header[:4] != b"OggS" or not _is_whole(header, lengths, body):
            following = find_page(file, position + 1)
            if walk.links and header[:4] == b"OggS" and following is not None:
                walk.links[-1].damaged += 1
            if following is None:
                walk.bytes_outside += file.seek(0, 2) - position
                break
            walk.bytes_outside += following - position
            position = following
            file.seek(position)
            continue
        position += size
        _enter(walk.links, header, position - size, position)
    return walk


def _enter(links: list[_Link], header: bytes, start: int, end: int) -> None:
    """Record a whole page, which lies from `start` to `end`."""
    flags, stream, number = header[5], int.from_bytes(header[14:18], "little"), int.from_bytes(header[18:22], "little")
    if flags & FIRST_PAGE:
        if not links or links[-1].has_content:
            links.append(_Link(start))
        links[-1].streams.add(stream)
        links[-1].open_streams.add(stream)
    if not links:
        return
    link = links[-1]
    link.end = end
    if not flags & FIRST_PAGE:
        link.has_content = True
        link.continues |= stream in link.streams and stream not in link.open_streams
        link.damaged += link.next_numbers.get(stream, number) != number
    link.next_numbers[stream] = number + 1
    if flags & LAST_PAGE:
        link.open_streams.discard(stream)


def _is_whole(header: bytes, lengths: bytes, body: bytes) -> bool:
    """Return whether a page has the checksum in its header: CRC-32 with 0x04c11db7, starting from zero, with the
    checksum's own field as 0."""
    data = (header[:22] + bytes(4) + header[26:] + lengths + body).translate(_MIRRORED)
    checksum = zlib.crc32(data, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return checksum.to_bytes(4, "big").translate(_MIRRORED) == header[22:26]


def find_page(file: IO[bytes], position: int) -> int | None:
    """Return where the next page may start, from `position` on; None if there is none."""
    while True:
        file.seek(position)
        data = file.read(2**16)
        offset = data.find(b"OggS")
        if offset >= 0:
            return position + offset
        if len(data) < 2**16:
            return None
        position += len(data) - 3
