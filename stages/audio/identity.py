"""The identity of a recording, whatever its tags say: the digest of its encoded audio.

A library is retagged again and again, and nothing that was computed from the sound may be lost by it. The digest takes

- FLAC: the MD5 of the samples that the encoder left in STREAMINFO, with the stream's parameters (RFC 9639, 8.2); where
  it is zero, all bytes after the metadata blocks. The same samples packed harder are the same recording. The MD5 is
  taken at its word.
- MPEG audio and AAC in ADTS: the bytes between the tags at both ends (ID3v2, ID3v1, APEv2, Lyrics3).
- WAV and AIFF: the format chunk and the sample chunk.
- Ogg: every packet of every stream but the second, which is the comment header in Vorbis, Opus, Speex and FLAC, and the
  last granule position, which trims the end. Pages are left out, since taggers cut them anew.
- MP4: the payload of the `mdat` atoms. ASF: that of the data object.
- anything else: the whole file.

The name of the rule is part of what is hashed, so two containers never share an identity by chance: the same samples as
WAV and as FLAC are two recordings. The walk also tells whether the container is all there. (FFmpeg's demuxers would
give the packets of every container, but not the format chunk of WAV; they pass over most cuts, and take Lyrics3 for
sound.)
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import IO, Literal

from stages.audio.containers import container_of, first_frame, skip_id3
from stages.audio.locations import AudioError

READ_BYTES = 2**20
"""Bytes that are read and hashed at a time."""

_FIRST_PAGE, _LAST_PAGE = 2, 4
"""Flags of an Ogg page that begins or ends a stream."""


def track_identity(file: IO[bytes]) -> str:
    """Return the SHA-256 of the encoded audio of an open file, in hexadecimal.

    Raises:
        AudioError: the file is empty, or shorter than its own chunk, atom or page says.
        OSError: the disk or the network failed.
    """
    size = file.seek(0, 2)
    if size == 0:
        raise AudioError("empty", "expected a recording, got a file of zero bytes")
    container = container_of(file)
    digest = hashlib.sha256(container.encode() + b"\0")
    for part in _PARTS.get(container, _whole)(file, size):
        digest.update(part)
    return digest.hexdigest()


def _read_span(file: IO[bytes], start: int, end: int) -> Iterator[bytes]:
    file.seek(start)
    left = end - start
    while left > 0:
        data = file.read(min(READ_BYTES, left))
        if not data:
            raise AudioError("truncated", f"expected {end - start:,} bytes of audio, got {end - start - left:,}")
        yield data
        left -= len(data)


def _whole(file: IO[bytes], size: int) -> Iterator[bytes]:
    yield from _read_span(file, 0, size)


def _cut_short(what: str, promised: int, present: int) -> AudioError:
    message = f"expected {promised:,} bytes in the {what}, as its header claims, got a file with {present:,} left"
    return AudioError("truncated", f"{message}: it was cut short, or written as an endless stream")


def _chunks(file: IO[bytes], size: int) -> Iterator[bytes]:
    """Yield the format and sample chunks of RIFF (and RF64, EBU Tech 3306) or IFF, each with its name and size: chunks
    have a name, a 32-bit size and a payload padded to even length."""
    file.seek(0)
    form = file.read(4)
    order: Literal["big", "little"] = "big" if form in (b"FORM", b"RIFX") else "little"
    samples = b"SSND" if form == b"FORM" else b"data"
    hashed = (b"COMM", b"FVER", samples) if form == b"FORM" else (b"fmt ", samples)
    position, long_size, has_samples = 12, None, False
    while position + 8 <= size:
        file.seek(position)
        header = file.read(8)
        name, length = header[:4], int.from_bytes(header[4:], order)
        if name == b"ds64":
            long_size = int.from_bytes(file.read(16)[8:16], "little")
        start = position + 8
        if name == samples:
            if length == 0xFFFFFFFF and long_size is not None:
                length = long_size
            if start + length > size:
                raise _cut_short("sample chunk", length, size - start)
            has_samples = True
        if name in hashed:
            yield name + length.to_bytes(8, "little")
            yield from _read_span(file, start, min(start + length, size))
        position = start + length + length % 2
    if not has_samples:
        raise AudioError("truncated", "expected a chunk of samples, got a file that ends before it")


def _flac(file: IO[bytes], size: int) -> Iterator[bytes]:
    position = skip_id3(file) + 4
    last, stream = False, b""
    while not last:
        file.seek(position)
        header = file.read(4)
        if len(header) < 4:
            raise AudioError("truncated", "expected FLAC frames after the metadata, got the end of the file")
        last, length = bool(header[0] & 0x80), int.from_bytes(header[1:], "big")
        if header[0] & 0x7F == 0:
            stream = file.read(34)
        position += 4 + length
    # Minimum and maximum frame sizes stand before: they are the packing's, not the recording's.
    yield stream[10:18]
    if any(stream[18:34]):
        yield stream[18:34]
    else:
        yield from _read_span(file, position, _before_tags(file, size))


def _mpeg(file: IO[bytes], size: int) -> Iterator[bytes]:
    start, end = skip_id3(file), _before_tags(file, size)
    file.seek(start)
    start += first_frame(file.read(2**16)) or 0
    yield from _read_span(file, start, end)


def _before_tags(file: IO[bytes], size: int) -> int:
    """Return where the tags at the end of a file begin: ID3v1 (128 bytes, 355 with its extension), APEv2, Lyrics3v2."""
    end, before = size, size + 1
    while end < before:
        before = end
        file.seek(max(0, end - 355))
        tail = file.read(min(end, 355))
        if tail[-128:-125] == b"TAG":
            end -= 355 if tail[:4] == b"TAG+" else 128
        elif tail[-32:-24] == b"APETAGEX":
            flags = int.from_bytes(tail[-12:-8], "little")
            end -= int.from_bytes(tail[-20:-16], "little") + (32 if flags & 0x80000000 else 0)
        elif tail[-9:] == b"LYRICS200" and tail[-15:-9].isdigit():
            end -= int(tail[-15:-9]) + 15
    return end if end > 0 else size


def _mp4(file: IO[bytes], size: int) -> Iterator[bytes]:
    """Yield the payloads of an MP4's `mdat` atoms (ISO 14496-12, 4.2)."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        length, start = int.from_bytes(header[:4], "big"), position + 8
        if length == 1:
            length, start = int.from_bytes(header[8:16], "big"), position + 16
        elif length == 0:
            length = size - position
        if length < 8:
            raise AudioError("unreadable", f"expected MP4 atoms, got one that claims {length} bytes at {position:,}")
        if position + length > size:
            raise _cut_short(f"MP4's {header[4:8].decode('latin-1')!r} atom", length, size - position)
        if header[4:8] == b"mdat":
            yield from _read_span(file, start, position + length)
        position += length


def _asf(file: IO[bytes], size: int) -> Iterator[bytes]:
    """Yield the packets of an ASF's data object, after its file id and counts (ASF specification, section 5)."""
    position = 0
    while position + 24 <= size:
        file.seek(position)
        header = file.read(24)
        length = int.from_bytes(header[16:24], "little")
        if length < 24:
            raise AudioError("unreadable", f"expected ASF objects, got one that claims {length} bytes at {position:,}")
        if position + length > size:
            raise _cut_short("ASF object", length, size - position)
        if header[:16] == bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c"):
            yield from _read_span(file, position + 50, position + length)
            return
        position += length
    raise AudioError("truncated", "expected ASF's data object, got the end of the file")


def _ogg(file: IO[bytes], size: int) -> Iterator[bytes]:
    """Yield every packet of an Ogg file (RFC 3533) but each stream's second, the comment header; then the last granule
    position of each. Every part follows its length. Bytes between pages are passed over, as decoders do.

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
            if not _next_page(file, header):
                break
            continue
        serial, flags = int.from_bytes(header[14:18], "little"), header[5]
        lengths = file.read(header[26])
        body = file.read(sum(lengths))
        if len(lengths) < header[26] or len(body) < sum(lengths):
            raise AudioError("truncated", "expected a whole Ogg page, got the end of the file in the middle of it")
        if flags & _FIRST_PAGE:
            counts[serial], partial[serial] = 0, bytearray()
            open_streams.add(serial)
        if flags & _LAST_PAGE:
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
                    yield len(packet).to_bytes(8, "little") + packet
                counts[serial] = counts.get(serial, 0) + 1
    if open_streams or not counts:
        raise AudioError("truncated", "expected an Ogg stream with its last page, got a file that ends before it")
    for granule in granules.values():
        yield len(granule).to_bytes(8, "little") + granule


def _next_page(file: IO[bytes], header: bytes) -> bool:
    """Go to the next page after damage or padding; False at the end of the file."""
    position = file.tell() - len(header) + 1
    while True:
        file.seek(position)
        data = file.read(2**16)
        offset = data.find(b"OggS")
        if offset >= 0:
            file.seek(position + offset)
            return True
        if len(data) < 2**16:
            return False
        position += len(data) - 3


_PARTS: dict[str, Callable[[IO[bytes], int], Iterator[bytes]]] = {
    "wav": _chunks,
    "aiff": _chunks,
    "flac": _flac,
    "mp3": _mpeg,
    "aac": _mpeg,
    "ogg": _ogg,
    "mp4": _mp4,
    "asf": _asf,
}
"""What of each container is hashed; of any other, all of it."""
