"""MPEG audio and AAC in ADTS: frames one after the other, each with its length in its header.

A header frame before them (Xing, Info or VBRI) holds their number. That number may be wrong: an encoder was stopped, an
editor cut the file, files were joined by `cat`. So all frames are walked over, without decoding. Bytes between frames
are damage, or the tags of a file that was joined. If something is odd, the decoder gets only the frames, and a header
frame with the right number.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import IO

from stages.audio.containers import audio_end, first_frame, frame_bytes, frame_format, is_adts, skip_id3
from stages.audio.locations import AudioError
from stages.audio.splicing import Piece, Span
from stages.audio.surveys.layout import Layout, Part, Silence
from stages.audio.tolerances import JUNK_BYTES, RESTORE, TOLERATED_SECONDS, compare_length

WINDOW_BYTES = 2**20
"""Bytes read at a time."""

LONGEST_FRAME = 2**13
"""Bytes in the longest frame: ADTS has 13 bits for the length, and frames of MPEG audio are shorter."""

DECODER_DELAY = 1105
"""Samples that decoders omit at the start if a header frame gives LAME's delay: 576 + 529."""

_SYNC = re.compile(rb"\xff(?=[\xe2-\xff][\x00-\xef])", re.DOTALL)
_VBRI_OFFSET = 36

LengthAt = Callable[[bytes, int], int]
"""Returns the length in bytes of the frame that starts at an offset of some bytes; 0 if no frame of the file's kind
starts there."""


@dataclass(frozen=True)
class _Gap:
    """Bytes between frames that are not a frame."""

    frames_before: int
    """Number of frames of the run before them."""
    bytes: int


@dataclass
class _Run:
    """The frames of one recording."""

    header: Span | None = None
    """The header frame; None if there is none."""
    mark: int = 0
    """Offset in the header frame of its name: Xing, Info or VBRI."""
    spans: list[list[int]] = field(default_factory=list)
    """Start and end of the other frames; adjacent frames share a span."""
    gaps: list[_Gap] = field(default_factory=list)
    frames: int = 0

    @property
    def bytes(self) -> int:
        return sum(end - start for start, end in self.spans)


@dataclass(frozen=True)
class _Claim:
    """The counts in a header frame."""

    frames: int
    size: int | None
    """Bytes of all frames; None if it is not given."""
    frames_at: int
    """Offset in the header frame of the number of frames."""
    size_at: int

    def corrected(self, header: bytes, run: _Run) -> bytes:
        """Return the header frame with the counts of `run` written into it."""
        corrected = bytearray(header)
        corrected[self.frames_at : self.frames_at + 4] = run.frames.to_bytes(4, "big")
        if self.size is not None:
            corrected[self.size_at : self.size_at + 4] = (run.bytes + len(header)).to_bytes(4, "big")
        return bytes(corrected)


def survey_mpeg(file: IO[bytes]) -> Layout:
    """Walk over the frames of MPEG audio or ADTS.

    Raises:
        AudioError: there are no frames, their format changes, or they are far fewer than the header frame claims.
    """
    walk = _Walk(file)
    frames = max(1, sum(run.frames for run in walk.runs))
    mean_bytes = max(1.0, sum(run.bytes for run in walk.runs) / frames)
    tolerated_bytes = TOLERATED_SECONDS * walk.rate / walk.samples * mean_bytes
    remarks = []
    if walk.leading > tolerated_bytes:
        remarks.append(f"expected sound from the start, got {walk.leading:,} other bytes first: ignored")
    if walk.trailing > tolerated_bytes:
        remarks.append(f"expected sound to the end, got {walk.trailing:,} other bytes last: ignored")
    is_cut = walk.ends_in_frame and walk.runs[-1].header is None
    if is_cut:
        remarks.append("expected a whole frame at the end, got only a part: more may have been cut off")
    if len(walk.runs) > 1:
        remarks.append(f"expected one recording, got {len(walk.runs)} joined in one file: read as one, end to end")
    is_odd = len(walk.runs) > 1 or walk.leading > tolerated_bytes or is_cut
    parts = [_part(run, walk, mean_bytes, is_odd, remarks) for run in walk.runs]
    return Layout(tuple(parts), tuple(remarks))


def _part(run: _Run, walk: "_Walk", mean_bytes: float, is_odd: bool, remarks: list[str]) -> Part:
    """Return the part that a run of frames is; add sentences about what is odd to `remarks`."""
    lost = [max(1, round(gap.bytes / mean_bytes)) for gap in run.gaps]
    header = walk.read(run.header)
    claim = _claim_of(header, run.mark) if header else None
    if claim is not None:
        if len(lost) == 1 and abs(claim.frames - run.frames - lost[0]) <= 2:
            lost = [max(0, claim.frames - run.frames)]
        remark = _compare(claim, run, len(header), sum(lost), walk)
        if remark:
            remarks.append(remark)
            is_odd = True
        header = claim.corrected(header, run)
    if run.gaps:
        places = ", ".join(f"{gap.frames_before * walk.samples / walk.rate:.1f} s" for gap in run.gaps[:3])
        size = sum(gap.bytes for gap in run.gaps)
        more = " and more" if len(run.gaps) > 3 else ""
        remarks.append(f"expected consecutive frames, got {size:,} damaged bytes at {places}{more}")
    pieces: list[Piece] = [Span(start, end) for start, end in run.spans]
    delay = DECODER_DELAY if header else 0
    return Part(
        ((header, *pieces) if header else tuple(pieces)) if is_odd or run.gaps else None,
        run.frames * walk.samples,
        tuple(
            Silence(max(0, gap.frames_before * walk.samples - delay), count * walk.samples)
            for gap, count in zip(run.gaps, lost, strict=True)
        ),
        # Without a count, libsndfile estimates the length from the first frame's bit rate and stops there.
        needs_ffmpeg=claim is None or bool(run.gaps),
    )


def _compare(claim: _Claim, run: _Run, header_bytes: int, lost: int, walk: "_Walk") -> str | None:
    """Compare the counts of a header frame with the frames of a run; `lost` are frames that damage replaced. Return a
    warning, or None if the two agree."""
    try:
        return compare_length(claim.frames * walk.samples, (run.frames + lost) * walk.samples, walk.rate)
    except AudioError:
        # If a header frame has the wrong number of frames but the right number of bytes, the file was not cut.
        if claim.size is None or run.gaps or abs(claim.size - run.bytes - header_bytes) > JUNK_BYTES:
            raise
        return f"expected {claim.frames:,} frames by its header, got {run.frames:,} in the right number of bytes"


def _claim_of(header: bytes, mark: int) -> _Claim | None:
    """Return the counts in a header frame; None if it gives no number of frames."""
    flags, is_vbri = int.from_bytes(header[mark + 4 : mark + 8], "big"), header[mark : mark + 4] == b"VBRI"
    if not is_vbri and not flags & 1:
        return None
    frames_at, size_at = (mark + 14, mark + 10) if is_vbri else (mark + 8, mark + 12)
    size = int.from_bytes(header[size_at : size_at + 4], "big") if is_vbri or flags & 2 else None
    return _Claim(int.from_bytes(header[frames_at : frames_at + 4], "big"), size, frames_at, size_at)


class _Walk:
    """A walk over all frames of a file.

    Args:
        file: MPEG audio or ADTS, by `container_of`.

    Raises:
        AudioError: there are no frames, or their format changes.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._start, self._window = file, 0, b""
        base, self._end = skip_id3(file), audio_end(file)
        first = self._first_frame(base)
        header = self._peek(first, 10)
        self.rate, self.samples = frame_format(header)
        self._mark = _mark_offset(header)
        self._length_at = _adts_lengths(header) if is_adts(header) else _mpeg_lengths(header)
        self.leading = first - base
        self.runs, self.ends_in_frame = [_Run()], False
        self.trailing = self._end - self._walk(first)
        self.runs = [run for run in self.runs if run.frames] or self.runs[:1]

    def read(self, span: Span | None) -> bytes:
        return b"" if span is None else self._peek(span.start, span.end - span.start)

    def _walk(self, position: int) -> int:
        """Record all frames from `position` on, and return where they end."""
        previous: int | None = None
        while position + 4 <= self._end:
            offset = self._offset(position)
            length = self._length_at(self._window, offset)
            if length:
                if position + length > self._end:
                    self.ends_in_frame = True
                    break
                self._enter(position, length)
                previous, position = position, position + length
                continue
            tag = self._tag_length(position)
            if tag:
                position, previous = position + tag, None
                self.runs.append(_Run())
                continue
            # If a frame's header is damaged, the frame before it has the wrong length or is damaged too.
            resume = self._resume(position if previous is None else previous + 1)
            if resume is None:
                break
            if self.runs[-1].frames and previous is not None:
                run = self.runs[-1]
                run.frames -= 1
                run.spans[-1][1] = previous
                run.gaps.append(_Gap(run.frames, resume - previous))
            position, previous = resume, None
        return position

    def _enter(self, position: int, length: int) -> None:
        """Record the frame at `position`: a header frame begins a new run, any other is added to the current one."""
        run, offset = self.runs[-1], position - self._start
        for mark in (self._mark, _VBRI_OFFSET) if run.frames == 0 else (self._mark,):
            if self._window[offset + mark : offset + mark + 4] in (b"Xing", b"Info", b"VBRI"):
                self.runs.append(_Run(Span(position, position + length), mark))
                return
        run.frames += 1
        if run.spans and run.spans[-1][1] == position:
            run.spans[-1][1] = position + length
        else:
            run.spans.append([position, position + length])

    def _offset(self, position: int, count: int = LONGEST_FRAME) -> int:
        """Return the offset of `position` in the window, which is moved so that it holds `count` bytes from there, or
        all up to the end."""
        offset = position - self._start
        if offset < 0 or (offset + count > len(self._window) and self._start + len(self._window) < self._end):
            self._file.seek(position)
            self._start, self._window = position, self._file.read(max(0, min(WINDOW_BYTES, self._end - position)))
            offset = 0
        return offset

    def _peek(self, position: int, count: int) -> bytes:
        offset = self._offset(position, count)
        return self._window[offset : offset + count]

    def _first_frame(self, base: int) -> int:
        head = self._peek(base, WINDOW_BYTES)
        position = first_frame(head[: 2**16])
        if position is None:
            position = first_frame(head, 4)
        if position is None:
            got = f"a file with {self._end - base:,} bytes of sound but no two consecutive frames"
            raise AudioError("truncated", f"expected MPEG audio, got {got}: it was cut short; {RESTORE}")
        return base + position

    def _resume(self, position: int) -> int | None:
        """Return where the next two consecutive frames of the same kind start, or a frame that ends at the end of the
        file; None if there are none.

        Raises:
            AudioError: four consecutive frames of another kind come first.
        """
        while position + 4 <= self._end:
            self._file.seek(position)
            data = self._file.read(min(WINDOW_BYTES, self._end - position))
            is_last = position + len(data) >= self._end
            searched = len(data) if is_last else len(data) - 4 * LONGEST_FRAME
            data += bytes(16)
            for match in _SYNC.finditer(data, 0, searched):
                offset = match.start()
                length = self._length_at(data, offset)
                if length and (
                    position + offset + length == self._end
                    or (offset + length < len(data) - 16 and self._length_at(data, offset + length))
                ):
                    return position + offset
                if not length and first_frame(data[offset : offset + 4 * LONGEST_FRAME], 4) == 0:
                    where = f"at byte {position + offset:,}: split it there"
                    expected = "expected one sample rate and number of channels"
                    raise AudioError("mixed", f"{expected}, got a file that changes them {where}")
            if is_last:
                break
            position += searched
        return None

    def _tag_length(self, position: int) -> int:
        """Return the length of the tag that starts here, as where files with tags were joined; 0 if none starts
        here."""
        head = self._peek(position, 32)
        if head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 128:
            return 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
        if head[:8] == b"APETAGEX":
            return 32 + int.from_bytes(head[12:16], "little")
        return 128 if head[:3] == b"TAG" else 0


def _mark_offset(header: bytes) -> int:
    """Return where Xing's name is in a frame with this header: after the header and the side information."""
    is_mono, is_mpeg1 = header[3] >> 6 == 3, header[1] >> 3 & 3 == 3
    return 4 + (17 if is_mono else 32) if is_mpeg1 else 4 + (9 if is_mono else 17)


def _mpeg_lengths(first: bytes) -> LengthAt:
    """Return a function for the lengths of frames with the version, layer, rate and number of channels of the first."""
    is_mono, lengths = first[3] >> 6 == 3, _lengths_of_kind(first[1] & 0xFE, first[2] & 0x0C)

    def length_at(data: bytes, offset: int) -> int:
        if data[offset] != 0xFF or (data[offset + 3] >= 0xC0) is not is_mono:
            return 0
        return lengths.get(data[offset + 1] << 8 | data[offset + 2], 0)

    return length_at


@lru_cache
def _lengths_of_kind(kind: int, rate: int) -> dict[int, int]:
    """Return the lengths of frames of one kind, by the second and third byte of their headers. `kind` is the second
    byte without its checksum bit; `rate` is the bits of the sample rate in the third."""
    headers = [(second, third) for second in (kind, kind | 1) for third in range(0x100) if third & 0x0C == rate]
    lengths = {second << 8 | third: frame_bytes(bytes([0xFF, second, third, 0])) for second, third in headers}
    return {header: length for header, length in lengths.items() if length}


def _adts_lengths(first: bytes) -> LengthAt:
    """Return a function for the lengths of frames with the profile, rate and channels of the first."""
    second, third, fourth = first[1] & 0xFE, first[2] & 0xFD, first[3] & 0xC0

    def length_at(data: bytes, offset: int) -> int:
        header = data[offset : offset + 6]
        if header[0] != 0xFF or (header[1] & 0xFE, header[2] & 0xFD, header[3] & 0xC0) != (second, third, fourth):
            return 0
        return frame_bytes(header) or 0

    return length_at
