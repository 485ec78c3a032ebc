"""FLAC (RFC 9639): the header counts the samples, and every frame says where in the stream it is.

So the last frame's header tells how many samples there are, without decoding. Zero in the header means that the encoder
did not know, as when it writes into a pipe; libsndfile then reads for ever.
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
"""How every FLAC file begins: its name, and the header of the block STREAMINFO, or 0x80 for one that is the last."""

_BEGINNING = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
_FRAME_SYNC = re.compile(rb"\xff[\xf8\xf9]")

_TAIL_BYTES = 2**18
"""How far from the end the last frame is looked for at least; frames are mostly under 2^16 bytes."""

_RATES = (0, 88_200, 176_400, 192_000, 8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 0, 0, 0, 0)
"""What the code of a frame's sample rate stands for, Hz; 0 where the header or the end of the frame's own has it."""

_CRC8 = [0] * 256
for _value in range(256):
    _remainder = _value
    for _ in range(8):
        _remainder = (_remainder << 1) ^ (0x107 if _remainder & 0x80 else 0)
    _CRC8[_value] = _remainder & 0xFF


@dataclass(frozen=True)
class StreamInfo:
    """What the first block of metadata says."""

    end: int
    """Where the metadata ends."""
    block_size: int
    """Samples in a frame."""
    longest_frame: int
    """Bytes."""
    parameters: bytes
    """The rate, channels, bits and number of samples as they stand there."""
    digest: bytes
    """The MD5 of the samples."""

    @property
    def sample_rate(self) -> int:
        return max(1, int.from_bytes(self.parameters, "big") >> 44)

    @property
    def samples(self) -> int:
        return int.from_bytes(self.parameters, "big") & (2**36 - 1)


def survey_flac(file: IO[bytes], search_all: bool) -> Layout:
    """Compare the number of samples that the header gives with the last frame's place.

    Args:
        search_all: look through all bytes for further files, since a decoder left some.

    Raises:
        AudioError: the file ends before its samples do.
    """
    start, end = skip_id3(file), audio_end(file)
    stream = read_stream_info(file, start)
    present = _last_sample(file, stream, end)
    frame_rate = _first_rate(file, stream)
    if frame_rate not in (0, stream.sample_rate):
        remark = f"expected {stream.sample_rate:,} Hz by its header, got frames of {frame_rate:,} Hz: taken for right"
        return Layout((Part(frames=present, needs_ffmpeg=True),), (remark,))
    if present == stream.samples and not search_all and end - stream.end > _TAIL_BYTES:
        return Layout((Part(frames=present),))
    starts = [start, *_beginnings(file, stream.end, end)]
    if len(starts) == 1:
        return _layout_of_one(stream, present)
    remarks = [f"expected one recording, got {len(starts)} FLAC files joined in one: taken as one, end to end"]
    parts = []
    for begin, following in zip(starts, [*starts[1:], end], strict=True):
        each = read_stream_info(file, begin)
        layout = _layout_of_one(each, _last_sample(file, each, following))
        remarks += layout.remarks
        parts.append(Part((Span(begin, following),), layout.parts[0].frames, needs_ffmpeg=layout.parts[0].needs_ffmpeg))
    return Layout(tuple(parts), tuple(remarks))


def _layout_of_one(stream: StreamInfo, present: int | None) -> Layout:
    if stream.samples == 0:
        got = "got 0, as programs leave it that write into a pipe: read to the end of the file"
        unknown = f"expected a header with the number of samples, {got}"
        return Layout((Part(frames=present, needs_ffmpeg=True),), (unknown,))
    if present is None:
        no_frame = "expected FLAC frames to the end of the file, got other bytes there"
        return Layout((Part(frames=stream.samples, needs_ffmpeg=True),), (no_frame,))
    remark = compare_length(stream.samples, present, stream.sample_rate)
    return Layout((Part(frames=present, needs_ffmpeg=remark is not None),), (remark,) if remark else ())


def read_stream_info(file: IO[bytes], start: int) -> StreamInfo:
    """Read the metadata of a FLAC file that begins at `start`.

    Raises:
        AudioError: the file ends in it.
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
    """Return where FLAC files begin between `start` and `end`."""
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
    """Return the sample rate (Hz) that the first frame gives; 0 where it leaves that to the header."""
    file.seek(stream.end)
    frame = file.read(4)
    return _RATES[frame[2] & 15] if len(frame) == 4 and _FRAME_SYNC.match(frame) else 0


def _last_sample(file: IO[bytes], stream: StreamInfo, end: int) -> int | None:
    """Return after how many samples the last frame before `end` ends; None where there is no frame."""
    start = max(stream.end, end - max(_TAIL_BYTES, 2 * stream.longest_frame))
    file.seek(stream.end)
    first = file.read(4)
    file.seek(start)
    tail = file.read(end - start)
    last = None
    for match in _FRAME_SYNC.finditer(tail):
        header = tail[match.start() : match.start() + 16]
        # A frame shares with the first one how blocks are counted, the rate, and the bits of a sample.
        if len(header) < 6 or header[1] != first[1] or (header[2] ^ first[2]) & 15 or (header[3] ^ first[3]) & 15:
            continue
        place = frame_place(header, stream.block_size)
        if place is not None:
            last = place.stop
    return last


def frame_place(header: bytes, block_size: int) -> range | None:
    """Return which samples of the stream a frame holds (RFC 9639, 9.1); None where its header's checksum is wrong, or
    its block size or frame number are none: what only looks like a header, in the midst of a frame.

    Args:
        header: at least the first 16 bytes of the frame.
        block_size: that of STREAMINFO, for streams whose frames are numbered.
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
