"""FLAC (RFC 9639): the header holds the number of samples, and every frame its position in the stream.

So the header of the last frame shows how many samples there are, without decoding. A number of zero in the file's
header means that the encoder did not know it, for example because it wrote into a pipe; libsndfile then reads forever.
"""

import re
from dataclasses import dataclass
from typing import IO

from stages.audio.containers import audio_end, skip_id3
from stages.audio.locations import AudioError
from stages.audio.splicing import Span
from stages.audio.surveys.layout import Layout, Part
from stages.audio.tolerances import RESTORE, compare_length

START = b"fLaC\x00\x00\x00\x22"
"""First bytes of a FLAC file: its name and the header of the block STREAMINFO. The zero after the name is 0x80 if no
other block follows."""

_BEGINNING = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
_FRAME_SYNC = re.compile(rb"\xff[\xf8\xf9]")

_TAIL_BYTES = 2**18
"""Fewest bytes before the end that are searched for the last frame; most frames are shorter than 2^16 bytes."""

_RATES = (0, 88_200, 176_400, 192_000, 8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 0, 0, 0, 0)
"""Sample rate, Hz, for each rate code of a frame's header; 0 where the rate is in the file's header or at the end of
the frame's header."""

_CRC8 = [0] * 256
for _value in range(256):
    _remainder = _value
    for _ in range(8):
        _remainder = (_remainder << 1) ^ (0x107 if _remainder & 0x80 else 0)
    _CRC8[_value] = _remainder & 0xFF


@dataclass(frozen=True)
class StreamInfo:
    """Contents of STREAMINFO, the first block of metadata."""

    end: int
    """Where the metadata ends in the file."""
    block_size: int
    """Samples in a frame."""
    longest_frame: int
    """Bytes in the longest frame; 0 if the encoder did not know."""
    parameters: bytes
    """The block's fields of sample rate, channels, bits per sample and number of samples, undecoded."""
    digest: bytes
    """MD5 of the samples; all zero if the encoder did not compute it."""

    @property
    def sample_rate(self) -> int:
        """Hz, at least 1."""
        return max(1, int.from_bytes(self.parameters, "big") >> 44)

    @property
    def samples(self) -> int:
        """Samples per channel; 0 if the encoder did not know."""
        return int.from_bytes(self.parameters, "big") & (2**36 - 1)


def survey_flac(file: IO[bytes], search_all: bool) -> Layout:
    """Compare the number of samples in the header with the position of the last frame.

    Args:
        search_all: whether to search all bytes for further files, because a decoder left some unread.

    Raises:
        AudioError: the file ends before its samples do.
    """
    start, end = skip_id3(file), audio_end(file)
    stream = read_stream_info(file, start)
    present = _last_sample(file, stream, end)
    frame_rate = _first_rate(file, stream)
    if frame_rate not in (0, stream.sample_rate):
        remark = f"expected {stream.sample_rate:,} Hz by its header, got frames of {frame_rate:,} Hz: used the latter"
        return Layout((Part(frames=present, needs_ffmpeg=True),), (remark,))
    if present == stream.samples and not search_all and end - stream.end > _TAIL_BYTES:
        return Layout((Part(frames=present),))
    starts = [start, *_beginnings(file, stream.end, end)]
    if len(starts) == 1:
        return _layout_of_one(stream, present)
    remarks = [f"expected one recording, got {len(starts)} FLAC files joined in one: read as one, end to end"]
    parts = []
    for begin, following in zip(starts, [*starts[1:], end], strict=True):
        part_stream = read_stream_info(file, begin)
        layout = _layout_of_one(part_stream, _last_sample(file, part_stream, following))
        remarks += layout.remarks
        parts.append(Part((Span(begin, following),), layout.parts[0].frames, needs_ffmpeg=layout.parts[0].needs_ffmpeg))
    return Layout(tuple(parts), tuple(remarks))


def _layout_of_one(stream: StreamInfo, present: int | None) -> Layout:
    """Return the layout of a single FLAC file. `present` is the number of samples that it holds; None if there is no
    frame at its end."""
    if stream.samples == 0:
        got = "got 0, as left by programs that write into a pipe: read to the end of the file"
        unknown = f"expected a header with the number of samples, {got}"
        return Layout((Part(frames=present, needs_ffmpeg=True),), (unknown,))
    if present is None:
        no_frame = "expected FLAC frames to the end of the file, got other bytes there"
        return Layout((Part(frames=stream.samples, needs_ffmpeg=True),), (no_frame,))
    remark = compare_length(stream.samples, present, stream.sample_rate)
    return Layout((Part(frames=present, needs_ffmpeg=remark is not None),), (remark,) if remark else ())


def read_stream_info(file: IO[bytes], start: int) -> StreamInfo:
    """Return the STREAMINFO of the FLAC file that begins at `start`.

    Raises:
        AudioError: the file ends within the metadata.
    """
    position, is_last, info = start + 4, False, b""
    while not is_last:
        file.seek(position)
        header = file.read(4)
        if len(header) < 4:
            message = "expected FLAC frames after the metadata, got the end of the file"
            raise AudioError("truncated", f"{message}: it was cut short; {RESTORE}")
        is_last = bool(header[0] & 0x80)
        if header[0] & 0x7F == 0:
            info = file.read(34)
        position += 4 + int.from_bytes(header[1:], "big")
    return StreamInfo(
        position, int.from_bytes(info[2:4], "big"), int.from_bytes(info[7:10], "big"), info[10:18], info[18:34]
    )


def _beginnings(file: IO[bytes], start: int, end: int) -> list[int]:
    """Return the positions between `start` and `end` where FLAC files begin."""
    beginnings, position = [], start
    while position < end:
        file.seek(position)
        data = file.read(min(2**20, end - position))
        beginnings += [position + match.start() for match in _BEGINNING.finditer(data)]
        if position + len(data) >= end or not data:
            break
        position += len(data) - len(START) + 1
    return beginnings


def _first_rate(file: IO[bytes], stream: StreamInfo) -> int:
    """Return the sample rate (Hz) in the first frame's header; 0 if that refers to the file's header."""
    file.seek(stream.end)
    frame = file.read(4)
    return _RATES[frame[2] & 15] if len(frame) == 4 and _FRAME_SYNC.match(frame) else 0


def _last_sample(file: IO[bytes], stream: StreamInfo, end: int) -> int | None:
    """Return the number of samples up to the end of the last frame before `end`; None if there is no frame."""
    start = max(stream.end, end - max(_TAIL_BYTES, 2 * stream.longest_frame))
    file.seek(stream.end)
    first = file.read(4)
    file.seek(start)
    tail = file.read(end - start)
    last = None
    for match in _FRAME_SYNC.finditer(tail):
        header = tail[match.start() : match.start() + 16]
        # All frames have the same numbering (by frame or by sample), sample rate and bits per sample as the first.
        if len(header) < 6 or header[1] != first[1] or (header[2] ^ first[2]) & 15 or (header[3] ^ first[3]) & 15:
            continue
        samples = frame_samples(header, stream.block_size)
        if samples is not None:
            last = samples.stop
    return last


def frame_samples(header: bytes, block_size: int) -> range | None:
    """Return which samples of the stream a frame holds (RFC 9639, 9.1). Return None if the header's checksum, block
    size or frame number is not valid: then the bytes are part of a frame and only look like a header.

    Args:
        header: at least the first 16 bytes of the frame.
        block_size: block size of STREAMINFO, for streams that number their frames, not their samples.
    """
    leading = next((count for count in range(8) if not header[4] << count & 0x80), 8)
    code = header[2] >> 4
    if leading == 1 or leading > 7 or code == 0:
        return None
    length = 4 + max(1, leading)
    number = header[4] & (0x7F >> leading)
    for byte in header[5:length]:
        number = number << 6 | byte & 0x3F
    if code in (6, 7):
        samples = int.from_bytes(header[length : length + code - 5], "big") + 1
        length += code - 5
    else:
        samples = 192 if code == 1 else 576 << (code - 2) if 2 <= code <= 5 else 256 << (code - 8)
    length += {12: 1, 13: 2, 14: 2}.get(header[2] & 15, 0)
    checksum = 0
    for byte in header[:length]:
        checksum = _CRC8[checksum ^ byte]
    if length >= len(header) or checksum != header[length]:
        return None
    begin = number if header[1] & 1 else number * block_size
    return range(begin, begin + samples)
