"""WAV and AIFF: formats made of chunks with a length in their headers (RIFF, RF64, IFF).

Only the headers of chunks are read. They show whether the length of the samples is known and right, how many samples
there are, and where another file begins if two were joined. If a length is wrong, the decoder gets the file with the
right one.
"""

from dataclasses import dataclass
from typing import IO, Literal

from stages.audio.containers import audio_end
from stages.audio.locations import AudioError
from stages.audio.splicing import Piece, Span
from stages.audio.surveys.layout import Layout, Part
from stages.audio.tolerances import JUNK_BYTES, RESTORE, compare_length

_UNKNOWN_LENGTHS = ((0x7F000000, 0x80010000), (0xFF000000, 0x100000000))
"""Ranges of sizes, near the largest number of 31 or 32 bits, that programs write if they do not know the size, as when
they write into a pipe."""

_FORMS = (b"RIFF", b"RF64", b"RIFX", b"FORM")

_WAV_CODES = (1, 3, 6, 7, 0xFFFE)
"""Codes of formats in which every sample takes the same number of bytes: PCM, float, A-law, µ-law, extensible."""

_AIFC_TYPES = (
    b"NONE",
    b"sowt",
    b"twos",
    b"raw ",
    b"fl32",
    b"FL32",
    b"fl64",
    b"FL64",
    b"alaw",
    b"ALAW",
    b"ulaw",
    b"ULAW",
)


@dataclass(frozen=True)
class Chunk:
    """A chunk of a RIFF or IFF file."""

    name: bytes
    start: int
    """Where its content starts."""
    length: int
    """Bytes of content by its header."""
    present: int
    """Bytes of content that are in the file."""


@dataclass(frozen=True)
class RiffFile:
    """A RIFF or IFF file within a file, alone or followed by others."""

    form: bytes
    start: int
    end: int
    order: Literal["big", "little"]
    chunks: tuple[Chunk, ...]
    rest: int
    """Bytes after the last chunk."""

    def chunk(self, *names: bytes) -> Chunk | None:
        """Return the first chunk with one of the names; None if there is none."""
        return next((chunk for chunk in self.chunks if chunk.name in names), None)

    @property
    def samples(self) -> Chunk | None:
        """The chunk of samples; None if there is none."""
        return self.chunk(b"SSND" if self.form == b"FORM" else b"data")


def riff_files(file: IO[bytes]) -> list[RiffFile]:
    """Return the RIFF or IFF files in a file, by walking over its chunks (EBU Tech 3306 for RF64). A chunk is a name, a
    32-bit size, and content padded to an even length."""
    files: list[RiffFile] = []
    position, end, size = 0, audio_end(file), file.seek(0, 2)
    while position + 12 <= size:
        files.append(_riff_file(file, position, end, size))
        position = files[-1].end
    return files


def _riff_file(file: IO[bytes], base: int, end: int, size: int) -> RiffFile:
    """Walk over the chunks of the file that begins at `base`, up to the next file or the end."""
    file.seek(base)
    form = file.read(4)
    order: Literal["big", "little"] = "big" if form in (b"FORM", b"RIFX") else "little"
    samples_name = b"SSND" if form == b"FORM" else b"data"
    chunks: list[Chunk] = []
    position, long_size, has_samples = base + 12, 0, False
    while position + 8 <= size:
        file.seek(position)
        header = file.read(24)
        name, length, start = header[:4], int.from_bytes(header[4:8], order), position + 8
        if name in _FORMS and header[8:12] in (b"WAVE", b"AIFF", b"AIFC"):
            return RiffFile(form, base, position, order, tuple(chunks), 0)
        if has_samples and not _is_name(name):
            # Some programs omit the byte that pads an odd length.
            if not (chunks[-1].length % 2 and _is_name(_peek(file, position - 1, 4))):
                break
            position -= 1
            continue
        if name == b"ds64":
            long_size = int.from_bytes(header[16:24], "little")
        if name == b"data" and length == 0xFFFFFFFF and long_size:
            length = long_size
        present = max(0, min(length, size - start))
        if name == samples_name and length == 0 and not _is_name(_peek(file, start, 4)):
            present = size - start  # the program was stopped before it could go back and write the length
        has_samples = has_samples or name == samples_name
        chunks.append(Chunk(name, start, length, present))
        position = start + max(length, present) + length % 2
    return RiffFile(form, base, size, order, tuple(chunks), max(0, end - position))


def _is_name(name: bytes) -> bool:
    return len(name) == 4 and all(32 <= byte < 127 for byte in name)


def _peek(file: IO[bytes], position: int, count: int) -> bytes:
    file.seek(position)
    return file.read(count)


def survey_riff(file: IO[bytes]) -> Layout:
    """Compare the length of the samples that a WAV or AIFF file claims with what it holds.

    Raises:
        AudioError: there is no chunk of samples, or it was cut short.
    """
    files = riff_files(file)
    remarks: list[str] = []
    parts = [_part(file, riff, len(files) > 1, remarks) for riff in files]
    if len(files) > 1:
        remarks.append(f"expected one recording, got {len(files)} joined in one file: read as one, end to end")
    return Layout(tuple(parts), tuple(remarks))


def _part(file: IO[bytes], riff: RiffFile, is_inside: bool, remarks: list[str]) -> Part:
    """Return the part that a RIFF or IFF file is; add sentences about what is odd to `remarks`."""
    samples = riff.samples
    if samples is None:
        expected = "expected a chunk of samples"
        raise AudioError("truncated", f"{expected}, got a file that ends before it: it was cut short; {RESTORE}")
    count = _SampleCount.of(file, riff)
    is_endless = any(low <= samples.length < high for low, high in _UNKNOWN_LENGTHS)
    is_endless = (is_endless or samples.length == 0) and samples.length != samples.present
    is_odd = is_endless
    if is_endless:
        got = f"one that claims {samples.length:,} bytes, as left by programs that write into a pipe or are stopped"
        remarks.append(f"expected a chunk of samples with its length, got {got}: read to the end of the file")
    else:
        claimed = count.frames_in(samples.length) if count.claimed is None else count.claimed
        remark = compare_length(claimed, count.frames_in(samples.present), count.sample_rate)
        if remark or samples.length > samples.present:
            is_odd = True
            got = f"{samples.present:,}"
            more = f"expected {samples.length:,} bytes of samples by the header, got {got}: used what is there"
            remarks.append(remark or more)
    if riff.rest > JUNK_BYTES:
        remarks.append(f"expected chunks after the samples, got {riff.rest:,} other bytes: ignored")
    several = sum(chunk.name == samples.name for chunk in riff.chunks)
    if several > 1:
        remarks.append(f"expected one chunk of samples, got {several}: read as one, end to end")
        return Part((Span(riff.start, riff.end),) if is_inside else None, needs_ffmpeg=True)
    pieces: tuple[Piece, ...] | None = (Span(riff.start, riff.end),) if is_inside else None
    if is_odd and samples.start - riff.start + samples.present < 2**32:
        pieces = (_corrected_header(file, riff, samples, count), Span(samples.start, samples.start + samples.present))
    return Part(pieces, count.frames_in(samples.present) if count.bytes_per_frame else None)


@dataclass(frozen=True)
class _SampleCount:
    """How bytes of samples are converted to a number of samples."""

    bytes_per_frame: int
    """Bytes of one sample of all channels; 0 if the samples are compressed."""
    sample_rate: int
    """Samples per second; bytes per second if the samples are compressed."""
    before: int = 0
    """Bytes in the chunk before its samples."""
    claimed: int | None = None
    """Samples per channel that the format chunk claims; None if it has no such field."""

    @classmethod
    def of(cls, file: IO[bytes], riff: RiffFile) -> "_SampleCount":
        """Read from the format chunk of a file how its samples are counted."""
        if riff.form == b"FORM" and (common := riff.chunk(b"COMM")):
            content = _peek(file, common.start, 22)
            channels, claimed, bits = (int.from_bytes(content[a:b], "big") for a, b in ((0, 2), (2, 6), (6, 8)))
            is_plain = content[18:22] in _AIFC_TYPES or common.length < 22
            rate = int.from_bytes(content[10:18], "big") >> max(0, 16383 + 63 - int.from_bytes(content[8:10], "big"))
            return cls(channels * -(-bits // 8) if is_plain else 0, max(1, rate), 8, claimed)
        content = _peek(file, form.start, 16) if (form := riff.chunk(b"fmt ")) else bytes(16)
        numbers = ((0, 2), (2, 4), (4, 8), (8, 12), (14, 16))
        code, channels, rate, byte_rate, bits = (int.from_bytes(content[a:b], riff.order) for a, b in numbers)
        if code not in _WAV_CODES:
            return cls(0, max(1, byte_rate))
        return cls(channels * -(-bits // 8), max(1, rate))

    def frames_in(self, length: int) -> int:
        """Return the samples per channel in a chunk of so many bytes; meaningless if they are compressed."""
        return max(0, length - self.before) // max(1, self.bytes_per_frame)


def _corrected_header(file: IO[bytes], riff: RiffFile, samples: Chunk, count: _SampleCount) -> bytes:
    """Return all bytes before the samples, with the sizes corrected."""
    header = bytearray(_peek(file, riff.start, samples.start - riff.start))
    header[4:8] = (len(header) + samples.present - 8).to_bytes(4, riff.order)
    header[-4:] = samples.present.to_bytes(4, riff.order)
    if riff.form == b"FORM" and (common := riff.chunk(b"COMM")):
        offset = common.start + 2 - riff.start
        header[offset : offset + 4] = (count.frames_in(samples.present) % 2**32).to_bytes(4, "big")
    return bytes(header)
