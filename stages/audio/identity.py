"""What recording a file holds, whatever its tags say: the digest of its encoded audio.

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
WAV and as FLAC are two recordings. The walk also tells whether the container is all there.
"""

import hashlib
from typing import IO, Any

from stages.audio.locations import AudioError
from stages.audio.ogg import ogg_packets
from stages.audio.signatures import container_of, first_frame, skip_id3

CHUNK = 2**20


def track_identity(file: IO[bytes]) -> str:
    """The SHA-256 of the encoded audio of an open file, in hexadecimal.

    Raises:
        AudioError: the file is empty, or shorter than its own chunk, atom or page says.
        OSError: the disk or the network failed.
    """
    size = file.seek(0, 2)
    if size == 0:
        raise AudioError("empty", "expected a recording, got a file of zero bytes")
    container = container_of(file)
    digest = hashlib.sha256(container.encode() + b"\0")
    if container == "wav":
        _chunks(file, size, digest, (b"fmt ",), b"data")
    elif container == "aiff":
        _chunks(file, size, digest, (b"COMM", b"FVER"), b"SSND")
    elif container == "flac":
        _flac(file, size, digest)
    elif container in ("mp3", "aac"):
        _mpeg(file, size, digest)
    elif container == "ogg":
        for packet in ogg_packets(file):
            digest.update(len(packet).to_bytes(8, "little") + packet)
    elif container == "mp4":
        _spans(file, digest, _atoms(file, size))
    elif container == "asf":
        _spans(file, digest, _asf_data(file, size))
    else:
        _spans(file, digest, [(0, size)])
    return digest.hexdigest()


def _update(file: IO[bytes], digest: Any, start: int, end: int) -> None:
    file.seek(start)
    left = end - start
    while left > 0:
        data = file.read(min(CHUNK, left))
        if not data:
            raise AudioError("truncated", f"expected {end - start:,} bytes of audio, got {end - start - left:,}")
        digest.update(data)
        left -= len(data)


def _spans(file: IO[bytes], digest: Any, spans: list[tuple[int, int]]) -> None:
    for start, end in spans:
        _update(file, digest, start, end)


def _promised(what: str, promised: int, present: int) -> AudioError:
    message = f"expected {promised:,} bytes in the {what}, as its header claims, got a file with {present:,} left"
    return AudioError("truncated", f"{message}: it was cut short, or written as an endless stream")


def _chunks(file: IO[bytes], size: int, digest: Any, parameters: tuple[bytes, ...], samples: bytes) -> None:
    """RIFF (and RF64, EBU Tech 3306) and IFF: chunks of a name, a 32-bit size and a payload padded to even length."""
    file.seek(0)
    order = "big" if file.read(4) in (b"FORM", b"RIFX") else "little"
    position, long_size, found = 12, None, False
    while position + 8 <= size:
        file.seek(position)
        header = file.read(8)
        name, length = header[:4], int.from_bytes(header[4:], order)  # type: ignore[arg-type]
        if name == b"ds64":
            long_size = int.from_bytes(file.read(16)[8:16], "little")
        start = position + 8
        if name == samples:
            if length == 0xFFFFFFFF and long_size is not None:
                length = long_size
            if start + length > size:
                raise _promised("sample chunk", length, size - start)
            found = True
        if name in (*parameters, samples):
            digest.update(name + length.to_bytes(8, "little"))
            _update(file, digest, start, min(start + length, size))
        position = start + length + length % 2
    if not found:
        raise AudioError("truncated", "expected a chunk of samples, got a file that ends before it")


def _flac(file: IO[bytes], size: int, digest: Any) -> None:
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
    # Minimum and maximum frame sizes stand between: they are the packing's, not the recording's.
    digest.update(stream[10:18])
    if any(stream[18:34]):
        digest.update(stream[18:34])
    else:
        _update(file, digest, position, _before_tags(file, size))


def _mpeg(file: IO[bytes], size: int, digest: Any) -> None:
    start, end = skip_id3(file), _before_tags(file, size)
    file.seek(start)
    start += first_frame(file.read(2**16)) or 0
    _update(file, digest, start, end)


def _before_tags(file: IO[bytes], size: int) -> int:
    """Where the tags at the end of a file begin: ID3v1 (128 bytes, or 355 with its extension), APEv2 and Lyrics3v2."""
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


def _atoms(file: IO[bytes], size: int) -> list[tuple[int, int]]:
    """The payloads of an MP4's `mdat` atoms (ISO 14496-12, 4.2)."""
    position, spans = 0, []
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
            raise _promised(f"MP4's {header[4:8].decode('latin-1')!r} atom", length, size - position)
        if header[4:8] == b"mdat":
            spans.append((start, position + length))
        position += length
    return spans


def _asf_data(file: IO[bytes], size: int) -> list[tuple[int, int]]:
    """The packets of an ASF's data object, after its file id and counts (ASF specification, section 5)."""
    position = 0
    while position + 24 <= size:
        file.seek(position)
        header = file.read(24)
        length = int.from_bytes(header[16:24], "little")
        if length < 24:
            raise AudioError("unreadable", f"expected ASF objects, got one that claims {length} bytes at {position:,}")
        if position + length > size:
            raise _promised("ASF object", length, size - position)
        if header[:16] == bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c"):
            return [(position + 50, position + length)]
        position += length
    raise AudioError("truncated", "expected ASF's data object, got the end of the file")
