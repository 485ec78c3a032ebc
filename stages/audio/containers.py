"""What container format a file has, by its first bytes and never by its name.

Files often have wrong extensions. A decoder that guesses the format also tries formats that refer to other files
(playlists, lists of segments). So the container is determined here, and the decoder is told which one to expect.
"""

from typing import IO

from stages.audio.splicing import Span, splice

PROBE_BYTES = 64 * 2**10
"""Bytes after the tags that are first searched, for two consecutive MPEG frames."""

SEARCH_BYTES = 2**20
"""Bytes searched for `SEARCH_FRAMES` consecutive frames if the first search found none: some programs leave room for
tags."""

SEARCH_FRAMES = 4

DEMUXERS = {
    "mp4": "mov",
    "asf": "asf",
    "matroska": "matroska",
    "aac": "aac",
    "mp3": "mp3",
    "ogg": "ogg",
    "flac": "flac",
    "wav": "wav",
    "aiff": "aiff",
    "caf": "caf",
    "wavpack": "wv",
    "ape": "ape",
    "ac3": "ac3",
    "au": "au",
    "w64": "w64",
}
"""FFmpeg's names of the containers that it may be asked to read. None of these formats refers to other files."""

_MAGIC = (
    (0, b"fLaC", "flac"),
    (0, b"OggS", "ogg"),
    (0, b"caff", "caf"),
    (0, b".snd", "au"),
    (0, b"riff\x2e\x91\xcf\x11", "w64"),
    (0, b"wvpk", "wavpack"),
    (0, b"MAC ", "ape"),
    (0, b"\x0bw", "ac3"),
    (0, b"\x1a\x45\xdf\xa3", "matroska"),
    (0, bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"), "asf"),
    (4, b"ftyp", "mp4"),
    (4, b"moov", "mp4"),
    (4, b"mdat", "mp4"),
    (4, b"wide", "mp4"),
    (4, b"free", "mp4"),
)
_BITRATES = {
    # MPEG-1 layers I, II, III, then MPEG-2 layers I, and II with III: kbit/s by index (ISO 11172-3, 13818-3).
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_ADTS_RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)


def container_of(file: IO[bytes]) -> str:
    """Return the container format of an open file: `wav`, `flac`, `mp3`, `aac`, `ogg`, `mp4`, `asf` … or `unknown`."""
    start = skip_id3(file)
    file.seek(start)
    head = file.read(PROBE_BYTES)
    if head[:4] in (b"RIFF", b"RF64", b"RIFX") and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    for offset, magic, container in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return container
    frame = first_frame(head)
    if frame is None and len(head) == PROBE_BYTES:
        head += file.read(SEARCH_BYTES - PROBE_BYTES)
        frame = first_frame(head, SEARCH_FRAMES)
    if frame is None:
        return "unknown"
    return "aac" if is_adts(head[frame : frame + 4]) else "mp3"


def skip_id3(file: IO[bytes]) -> int:
    """Return the position after the ID3v2 tags at the start of a file (ID3v2.4, section 3.1); some taggers write
    several."""
    position = 0
    while True:
        file.seek(position)
        header = file.read(10)
        if len(header) < 10 or header[:3] != b"ID3" or max(header[6:10]) > 127:
            return position
        size = header[6] << 21 | header[7] << 14 | header[8] << 7 | header[9]
        position += 10 + size + (10 if header[5] & 0x10 else 0)


def without_id3(file: IO[bytes], container: str) -> IO[bytes]:
    """Return a view of a file without the ID3v2 tag before it, if its container has no room for such a tag; else the
    file itself."""
    start = 0 if container in ("mp3", "aac", "flac", "unknown") else skip_id3(file)
    return splice(file, [Span(start, file.seek(0, 2))]) if start else file


def begins_like_mpeg(file: IO[bytes]) -> bool:
    """Return whether a file begins with an ID3v2 tag or the header of an MPEG frame."""
    file.seek(0)
    head = file.read(6)
    return head[:3] == b"ID3" or frame_bytes(head) is not None


def is_adts(header: bytes) -> bool:
    """Return whether a frame header is of AAC in an ADTS stream: MPEG's sync word with layer 0."""
    return header[0] == 0xFF and header[1] & 0xF6 == 0xF0


def frame_bytes(header: bytes) -> int | None:
    """Return the length in bytes of the MPEG audio or ADTS frame that starts with these 6 bytes; None if they are no
    frame header."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    if is_adts(header):
        if len(header) < 6 or header[2] >> 2 & 15 > 12:
            return None
        length = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
        return length if length > 7 else None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bitrate_index, rate_index, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 4 or rate_index == 3 or bitrate_index in (0, 15):
        return None
    bitrate = 1000 * _BITRATES[1 if version == 3 else 2, layer][bitrate_index - 1]
    rate = _RATES[version][rate_index]
    if layer == 1:
        return (12 * bitrate // rate + padding) * 4
    return (72 if layer == 3 and version != 3 else 144) * bitrate // rate + padding


def frame_format(header: bytes) -> tuple[int, int]:
    """Return the sample rate (Hz) and the samples per channel of the valid MPEG audio or ADTS frame that starts with
    these 4 bytes."""
    if is_adts(header):
        return _ADTS_RATES[header[2] >> 2 & 15], 1024
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    samples = 384 if layer == 1 else 576 if layer == 3 and version != 3 else 1152
    return _RATES[version][header[2] >> 2 & 3], samples


def first_frame(head: bytes, frames: int = 2) -> int | None:
    """Return where the first MPEG or ADTS frame in `head` starts; None if there is none.

    A frame counts only if `frames` - 1 others follow it, each exactly where the one before ends: a single sync word
    also occurs by chance."""
    position = head.find(b"\xff")
    while position != -1:
        following, left = position, frames
        while left and (length := frame_bytes(head[following : following + 6])) is not None:
            if (head[following + 1] ^ head[position + 1]) & 0xFE:
                break
            following, left = following + length, left - 1
        if not left:
            return position
        position = head.find(b"\xff", position + 1)
    return None


def audio_end(file: IO[bytes]) -> int:
    """Return where the tags at the end of a file begin: ID3v1 (128 bytes, 355 with its extension), APEv2 or Lyrics3v2.
    Without such tags, this is the size of the file."""
    size = file.seek(0, 2)
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
