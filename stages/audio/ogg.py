"""Ogg pages and the packets in them (RFC 3533), as far as identity and repeatable writing need them."""

import io
from collections.abc import Iterator
from typing import IO

from stages.audio.locations import AudioError

_CONTINUED, _FIRST, _LAST = 1, 2, 4


def ogg_packets(file: IO[bytes]) -> Iterator[bytes]:
    """Every packet of an open Ogg file but each stream's second, the comment header; then each stream's last granule
    position as eight bytes. Bytes between pages are passed over, as decoders do.

    Raises:
        AudioError: a page is cut, or a stream has no last page.
    """
    file.seek(0)
    partial: dict[int, bytearray] = {}
    counts: dict[int, int] = {}
    granules: dict[int, bytes] = {}
    open_streams: set[int] = set()
    while True:
        header = file.read(27)
        if len(header) < 27 or header[:4] != b"OggS":
            if not header:
                break
            if not _resync(file, header):
                break
            continue
        serial, flags = int.from_bytes(header[14:18], "little"), header[5]
        lengths = file.read(header[26])
        body = file.read(sum(lengths))
        if len(lengths) < header[26] or len(body) < sum(lengths):
            raise AudioError("truncated", "expected a whole Ogg page, got the end of the file in the middle of it")
        if flags & _FIRST:
            counts[serial], partial[serial] = 0, bytearray()
            open_streams.add(serial)
        if flags & _LAST:
            open_streams.discard(serial)
        if header[6:14] != b"\xff" * 8:
            granules[serial] = header[6:14]
        position = 0
        for length in lengths:
            # A picture in a comment has a hundred thousand such pieces, so they are not joined anew for each.
            packet = partial.setdefault(serial, bytearray())
            packet += body[position : position + length]
            position += length
            if length < 255:
                partial[serial] = bytearray()
                if counts.get(serial, 0) != 1:
                    yield bytes(packet)
                counts[serial] = counts.get(serial, 0) + 1
    if open_streams or not counts:
        raise AudioError("truncated", "expected an Ogg stream with its last page, got a file that ends before it")
    yield from granules.values()


def _resync(file: IO[bytes], header: bytes) -> bool:
    """Go to the next page after damage or padding; False at the end of the file."""
    position = file.tell() - len(header) + 1
    while True:
        file.seek(position)
        data = file.read(2**16)
        found = data.find(b"OggS")
        if found >= 0:
            file.seek(position + found)
            return True
        if len(data) < 2**16:
            return False
        position += len(data) - 3


def with_serial(data: bytes, serial: int) -> bytes:
    """The same Ogg file under another stream number. Encoders draw it at random, which would make every writing of one
    clip a different file."""
    from mutagen.ogg import OggPage

    file, pages = io.BytesIO(data), []
    while file.tell() < len(data):
        page = OggPage(file)
        page.serial = serial
        pages.append(page.write())
    return b"".join(pages)
