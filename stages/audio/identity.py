"""The identity of a recording, whatever its tags say: the digest of its encoded audio.

Libraries are retagged often, and retagging must not discard what was computed from the sound. The digest takes

- FLAC: the MD5 of the samples, which the encoder left in STREAMINFO, with the stream's parameters (RFC 9639, 8.2). If
  it is zero, or the file was found to be odd: all bytes after the metadata blocks. So the same samples at another level
  of compression are the same recording. The MD5 is not verified.
- MPEG audio and AAC in ADTS: the bytes between the tags at both ends (ID3v2, ID3v1, APEv2, Lyrics3).
- WAV and AIFF: the format chunk and the sample chunk.
- Ogg: every packet of every stream except the second, which is the comment header in Vorbis, Opus, Speex and FLAC; and
  the last granule position, which trims the end. Page headers are left out because taggers divide packets into pages
  differently.
- MP4: the payload of the `mdat` atoms. ASF: the payload of the data object.
- anything else: the whole file.

The name of the container is hashed too, so files in two containers never share an identity by chance: the same samples
as WAV and as FLAC are two recordings. (FFmpeg's demuxers would give the packets of every container, but not the format
chunk of WAV, and they take Lyrics3 for sound.)
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import IO

from stages.audio.containers import audio_end, container_of, first_frame, skip_id3, without_id3
from stages.audio.locations import AudioError
from stages.audio.surveys.atoms import ASF_DATA, asf_objects, mp4_atoms
from stages.audio.surveys.chunks import riff_files
from stages.audio.surveys.flac import read_stream_info
from stages.audio.surveys.ogg import FIRST_PAGE, find_page

READ_BYTES = 2**20
"""Bytes read and hashed at a time."""


def track_identity(file: IO[bytes], is_clean: bool = True) -> str:
    """Return the SHA-256 of the encoded audio of an open file, in hexadecimal.

    Args:
        is_clean: whether reading the file found nothing odd. If something was odd, FLAC's MD5 is not trusted: a damaged
            copy of a recording is another recording, and so are two joined files.

    Raises:
        AudioError: the file is empty, or no sound is found in it.
        OSError: the disk or the network failed.
    """
    if file.seek(0, 2) == 0:
        raise AudioError("empty", "expected a recording, got a file of zero bytes")
    container = container_of(file)
    digest = hashlib.sha256(container.encode() + b"\0")
    rule = _frames_of_flac if container == "flac" and not is_clean else _PARTS.get(container, _whole)
    hashed = 0
    bare = without_id3(file, container) if rule is not _whole else file
    for part in rule(bare, bare.seek(0, 2)):
        digest.update(part)
        hashed += len(part)
    if not hashed:
        raise AudioError("unreadable", f"expected {container} audio, got a file without recognisable sound")
    return digest.hexdigest()


def _read_span(file: IO[bytes], start: int, end: int) -> Iterator[bytes]:
    """Yield the bytes of a file from `start` up to `end`.

    Raises:
        AudioError: the file ends before `end`.
    """
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


def _chunks(file: IO[bytes], size: int) -> Iterator[bytes]:
    """Yield the format and sample chunks of RIFF or IFF, each after its name and size. The size is what the file really
    holds, so a recording keeps its identity if a wrong header is corrected."""
    for riff in riff_files(file):
        for chunk in riff.chunks:
            if chunk.name in (b"COMM", b"FVER", b"SSND") if riff.form == b"FORM" else chunk.name in (b"fmt ", b"data"):
                yield chunk.name + chunk.present.to_bytes(8, "little")
                yield from _read_span(file, chunk.start, chunk.start + chunk.present)


def _flac(file: IO[bytes], size: int) -> Iterator[bytes]:
    """Yield FLAC's parameters and MD5; if the MD5 is zero, all bytes of frames in its place."""
    stream = read_stream_info(file, skip_id3(file))
    # The minimum and maximum frame sizes are left out: they depend on the compression, not on the recording.
    yield stream.parameters
    if any(stream.digest):
        yield stream.digest
    else:
        yield from _read_span(file, stream.end, audio_end(file))


def _frames_of_flac(file: IO[bytes], size: int) -> Iterator[bytes]:
    stream = read_stream_info(file, skip_id3(file))
    yield stream.parameters
    yield from _read_span(file, stream.end, audio_end(file))


def _mpeg(file: IO[bytes], size: int) -> Iterator[bytes]:
    start, end = skip_id3(file), audio_end(file)
    file.seek(start)
    start += first_frame(file.read(2**16)) or 0
    yield from _read_span(file, start, end)


def _mp4(file: IO[bytes], size: int) -> Iterator[bytes]:
    for atom in mp4_atoms(file, size):
        if atom.name == b"mdat":
            yield from _read_span(file, atom.start, min(atom.end, size))


def _asf(file: IO[bytes], size: int) -> Iterator[bytes]:
    """Yield the packets of an ASF's data object, without the file id and counts before them (ASF specification, section
    5)."""
    for each in asf_objects(file, size):
        if each.name == ASF_DATA:
            yield from _read_span(file, each.start + 26, min(each.end, size))


def _ogg(file: IO[bytes], size: int) -> Iterator[bytes]:
    """Yield every packet of an Ogg file (RFC 3533) except each stream's second, the comment header; then the last
    granule position of each stream. Each part is preceded by its length. Bytes between pages are skipped, as decoders
    do."""
    file.seek(0)
    partial: dict[int, bytearray] = {}
    counts: dict[int, int] = {}
    granules: dict[int, bytes] = {}
    while header := file.read(27):
        if len(header) < 27 or header[:4] != b"OggS":
            following = find_page(file, file.tell() - len(header) + 1)
            if following is None:
                break
            file.seek(following)
            continue
        serial = int.from_bytes(header[14:18], "little")
        lengths = file.read(header[26])
        body = file.read(sum(lengths))
        if header[5] & FIRST_PAGE:
            counts[serial], partial[serial] = 0, bytearray()
        if header[6:14] != b"\xff" * 8:
            granules[serial] = header[6:14]
        position = 0
        for length in lengths:
            # A picture in a comment has a hundred thousand such pieces, so each is appended, not joined to a new copy.
            packet = partial.setdefault(serial, bytearray())
            packet += body[position : position + length]
            position += length
            if length < 255:
                partial[serial] = bytearray()
                if counts.get(serial, 0) != 1:
                    yield len(packet).to_bytes(8, "little") + packet
                counts[serial] = counts.get(serial, 0) + 1
    for granule in granules.values():
        yield len(granule).to_bytes(8, "little") + granule


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
"""For each container, the parts of a file that are hashed; files in other containers are hashed whole."""
