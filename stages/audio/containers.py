"""What kind of container a file is, by its first bytes and never by its name.

Files in the wild carry wrong extensions, and a decoder that is told to guess will try formats that refer to other files
(playlists, lists of segments): so the container is decided here, and a decoder is told which one to expect.
"""

from typing import IO

PROBE_BYTES = 64 * 2**10
"""How far after the tags the first MPEG frame is looked for."""

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
}
"""The names that FFmpeg has for the containers it may be asked to read. None of them refers to other files."""

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


def container_of(file: IO[bytes]) -> str:
    """Return the container of an open file: `wav`, `flac`, `mp3`, `aac`, `ogg`, `mp4`, `asf` … or `unknown`."""
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
    if frame is None:
        return "unknown"
    return "aac" if is_adts(head[frame : frame + 4]) else "mp3"


def skip_id3(file: IO[bytes]) -> int:
    """Return where the ID3v2 tags at the start of a file end (ID3v2.4, section 3.1); some taggers stack them."""
    position = 0
    while True:
        file.seek(position)
        header = file.read(10)
        if len(header) < 10 or header[:3] != b"ID3" or max(header[6:10]) > 127:
            return position
        size = header[6] << 21 | header[7] << 14 | header[8] << 7 | header[9]
        position += 10 + size + (10 if header[5] & 0x10 else 0)


def is_adts(header: bytes) -> bool:
    """Tell a frame header of AAC in an ADTS stream: MPEG's sync word with layer 0."""
    return header[0] == 0xFF and header[1] & 0xF6 == 0xF0


def frame_bytes(header: bytes) -> int | None:
    """Return the length in bytes of the MPEG audio or ADTS frame that starts with these 6 bytes; None if none does."""
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


def first_frame(head: bytes) -> int | None:
    """Return where the first MPEG or ADTS frame in `head` starts, None if there is none: a sync word with another after
    exactly its length, since one alone also occurs by chance."""
    position = head.find(b"\xff")
    while position != -1:
        length = frame_bytes(head[position : position + 6])
        if length is not None:
            following = head[position + length : position + length + 6]
            same_kind = following[:1] == b"\xff" and (following[1] ^ head[position + 1]) & 0xFE == 0
            if same_kind and frame_bytes(following) is not None:
                return position
        position = head.find(b"\xff", position + 1)
    return None
