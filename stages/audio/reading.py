"""Reading recordings whole: any file that libsndfile or FFmpeg decodes, from any place that fsspec reaches.

A survey of the file's structure says what there is to read. libsndfile reads it, or FFmpeg's decoders if libsndfile
cannot. If the first decoder fails or stops early, the other one reads the file too, and the longer result is taken.
Anything odd is returned as a warning with the samples; a file that is not whole is rejected. All recordings are read
here, so every stage gets the same samples.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO, Any, Generic, TypeVar

import numpy as np

from stages.audio.containers import DEMUXERS, audio_end, begins_like_mpeg, container_of, without_id3
from stages.audio.decoders import BY_FFMPEG_ALONE, DecoderError, DecoderStream, open_ffmpeg, open_libsndfile
from stages.audio.locations import AudioError, open_binary
from stages.audio.samples import Samples, convert_audio
from stages.audio.splicing import splice
from stages.audio.surveys import WALKED, Layout, Part, survey
from stages.audio.tolerances import (
    JUNK_BYTES,
    MAX_DAMAGE,
    MISSING_SECONDS,
    RESTORE,
    TOLERATED_SECONDS,
    compare_length,
)

Result = TypeVar("Result")

BLOCK_FRAMES = 2**16
"""Most samples of silence per channel in one block."""


@dataclass(frozen=True)
class AudioStream:
    """An open recording. `blocks` yields its samples once, in order, float32 [C, n] each."""

    format: str
    sample_rate: int
    channels: int
    claimed_frames: int | None
    """Samples per channel that the file should have; None if nothing says how many."""
    blocks: Iterator[Samples]


@dataclass(frozen=True)
class Decoded(Generic[Result]):
    """The result of reading a whole recording."""

    value: Result
    """What the consumer of the samples returned."""
    frames: int
    """Samples per channel."""
    damage: float
    """Share of the samples that is silence in place of damage, 0 to 1."""
    warnings: tuple[str, ...]
    """What was odd about the file."""


@dataclass(frozen=True)
class DecodedAudio:
    """A decoded recording: `samples` float32 [C, N], all finite, `sample_rate` in Hz, `format` as in `tracks`."""

    samples: Samples
    sample_rate: int
    format: str

    @property
    def seconds(self) -> float:
        return self.samples.shape[1] / self.sample_rate


def read_audio(uri: str, max_seconds: float = 4 * 3600.0, max_damage: float = MAX_DAMAGE) -> DecodedAudio:
    """Read a whole recording.

    Args:
        max_seconds: longest recording that is read.
        max_damage: largest share of it that may be silence in place of damage.

    Raises:
        AudioError: it cannot be found or decoded, or is empty, cut short, longer than `max_seconds`, too damaged, or
            not finite.
        OSError: the disk or the network failed.
    """

    def collect(stream: AudioStream) -> DecodedAudio:
        parts, length = [], 0
        for block in stream.blocks:
            length += block.shape[1]
            if length > max_seconds * stream.sample_rate:
                raise AudioError("too long", f"expected at most {max_seconds:g} s of audio, got more in {uri!r}")
            parts.append(block)
        if length == 0:
            raise AudioError("empty", f"expected audio in {uri!r}, got a file with no samples")
        samples = np.concatenate(parts, axis=1)
        if not np.isfinite(samples).all():
            raise AudioError("not finite", f"expected finite samples, got NaN or infinity in {uri!r}")
        return DecodedAudio(samples, stream.sample_rate, stream.format)

    with open_binary(uri) as file:
        decoded = decode(file, collect)
    check_damage(decoded.damage, max_damage)
    return decoded.value


def check_damage(damage: float, max_damage: float) -> None:
    """Raise an `AudioError` if more than the share `max_damage` of a recording is damaged."""
    if damage > max_damage:
        got = f"a damaged file: {100 * damage:.2g} % of it is lost"
        raise AudioError("damaged", f"expected at most {100 * max_damage:g} % of lost sound, got {got}; {RESTORE}")


def decode(file: IO[bytes], consume: Callable[[AudioStream], Result]) -> Decoded[Result]:
    """Read an open recording in blocks. Memory is bounded, whatever its length.

    Args:
        consume: is given the recording, reads its blocks, and returns what the caller wants of them. It is called again
            with a fresh stream if the first reading was not whole. An `AudioError` that it raises itself ends the
            reading.

    Raises:
        AudioError: the recording cannot be decoded or was cut short, or its header claims impossible values.
        OSError: the disk or the network failed.
    """
    container = container_of(file)
    if file.seek(0, 2) == 0:
        raise AudioError("empty", "expected a recording, got a file of zero bytes")
    file = without_id3(file, container)
    layout = survey(file, container)
    first = _Reading[Result](file, container, layout, is_second=False)
    first.read(consume)
    if first.bytes_left and len((all_parts := survey(file, container, search_all=True)).parts) > 1:
        layout, first = all_parts, _Reading(file, container, all_parts, is_second=False)
        first.read(consume)
    readings = [first]
    if not first.is_whole and container in DEMUXERS and container not in BY_FFMPEG_ALONE:
        readings.append(_Reading(file, container, layout, is_second=True))
        readings[1].read(consume)
    complete = [reading for reading in readings if reading.error is None]
    if not complete:
        raise _refusal(file, container, readings)
    longest = max(complete, key=lambda reading: reading.frames)
    best = complete[0] if longest.frames - complete[0].frames <= TOLERATED_SECONDS * longest.sample_rate else longest
    return best.result(first)


@dataclass(frozen=True)
class _Length:
    """How many samples a part should have, and how many were read."""

    expected: int
    read: int
    sample_rate: int
    is_rounded: bool

    @property
    def is_complete(self) -> bool:
        """Whether nearly all samples were read, so that no warning is needed."""
        allowed = MISSING_SECONDS if self.is_rounded else TOLERATED_SECONDS
        return abs(self.read - self.expected) <= allowed * self.sample_rate

    def compare(self) -> str | None:
        """Return a warning, or raise an `AudioError` if too much is missing; see `compare_length`."""
        return compare_length(self.expected, self.read, self.sample_rate, self.is_rounded)


class _Reading(Generic[Result]):
    """One reading of a recording, with one decoder for each of its parts."""

    def __init__(self, file: IO[bytes], container: str, layout: Layout, is_second: bool) -> None:
        self._file, self._container, self._layout, self._is_second = file, container, layout, is_second
        self._lengths: list[_Length] = []
        self._concealed: list[int] = []
        self._value: Result | None = None
        self.error: AudioError | None = None
        self.sample_rate, self.frames, self.bytes_left = 1, 0, 0

    @property
    def is_whole(self) -> bool:
        """Whether no decoder failed, stopped early, or left bytes unread."""
        return self.error is None and not self.bytes_left and all(length.is_complete for length in self._lengths)

    def read(self, consume: Callable[[AudioStream], Result]) -> None:
        """Read all parts; if a decoder fails, keep its error in `error`."""
        parts = self._layout.parts
        try:
            with self._open(parts[0]) as decoder:
                self.sample_rate = decoder.sample_rate
                known = [part.frames for part in parts if part.frames is not None]
                claimed = (
                    sum(known) if len(known) == len(parts) else decoder.claimed_frames if len(parts) == 1 else None
                )
                stream = AudioStream(
                    decoder.format, decoder.sample_rate, decoder.channels, claimed, self._blocks(decoder)
                )
                self._value = consume(stream)
        except AudioError as error:
            # An error of the consumer is final. But if no samples were read, another decoder may read some.
            if not isinstance(error, DecoderError) and self.frames:
                raise
            self.error = error

    def result(self, first: "_Reading[Result]") -> Decoded[Result]:
        """Return the samples' value with the warnings about this reading.

        Args:
            first: the first reading of the file, which may be this one.

        Raises:
            AudioError: so many samples are missing that the file was cut short.
        """
        remarks = list(self._layout.remarks)
        if first is not self and first.error is not None:
            remarks.append(
                f"expected undamaged sound, got a file that one decoder cannot read ({first.error}): used another"
            )
        elif first is not self:
            lengths = [f"{reading.frames / reading.sample_rate:.2f} s" for reading in (first, self)]
            remarks.append(
                f"expected one length, got {lengths[0]} by one decoder and {lengths[1]} by another: used the longer"
            )
        if self.bytes_left:
            remarks.append(f"expected nothing after the sound, got {self.bytes_left:,} other bytes: ignored")
        for length in self._lengths:
            try:
                remark = None if length.is_complete else length.compare()
            except AudioError as error:
                raise AudioError(error.kind, "; ".join([error.message, *remarks])) from error
            if remark:
                remarks.append(remark)
        damaged = sum(self._concealed)
        if damaged:
            silence = f"{damaged / self.sample_rate:.2f} s of silence in {len(self._concealed)} places"
            remarks.append(f"expected undamaged sound, got damage: replaced by {silence}")
        assert self._value is not None
        return Decoded(self._value, self.frames, damaged / max(1, self.frames), tuple(remarks))

    def _open(self, part: Part) -> AbstractContextManager[DecoderStream]:
        """Open a part in the first decoder for it, or in the other one if this is the second reading."""
        file = self._file if part.pieces is None else splice(self._file, part.pieces)
        by_ffmpeg = part.needs_ffmpeg is not self._is_second and self._container in DEMUXERS
        if by_ffmpeg or self._container in BY_FFMPEG_ALONE:
            return open_ffmpeg(file, self._container)
        return open_libsndfile(file, self._container)

    def _blocks(self, first: DecoderStream) -> Iterator[Samples]:
        """Yield the samples of all parts. They must have the same format, or a `DecoderError` is raised."""
        yield from self._part_blocks(first, self._layout.parts[0])
        for part in self._layout.parts[1:]:
            with self._open(part) as decoder:
                if (decoder.sample_rate, decoder.channels) != (first.sample_rate, first.channels):
                    formats = [f"{each.sample_rate:,} Hz and {each.channels} channels" for each in (first, decoder)]
                    got = f"recordings joined in one file, with {formats[0]} and {formats[1]}"
                    raise DecoderError("mixed", f"expected one format, got {got}: split the file between them")
                yield from self._part_blocks(decoder, part)

    def _part_blocks(self, decoder: DecoderStream, part: Part) -> Iterator[Samples]:
        """Yield the samples of a part, with silence in the places that the survey found damaged."""
        read, silences = 0, deque(part.silences)
        for block in decoder.blocks:
            start = 0
            while silences and silences[0].position < read + block.shape[1]:
                cut = max(start, silences[0].position - read)
                yield from self._counted(block[:, start:cut])
                yield from self._silence(decoder.channels, silences.popleft().frames)
                start = cut
            yield from self._counted(block[:, start:] if start else block)
            read += block.shape[1]
        for silence in silences:
            yield from self._silence(decoder.channels, silence.frames)
        self._concealed += decoder.concealed
        expected = decoder.claimed_frames if part.frames is None else part.frames
        if expected is not None:
            is_rounded = part.frames is None and decoder.is_rounded
            self._lengths.append(_Length(expected, read, decoder.sample_rate, is_rounded))
        if part.pieces is None and self._container not in WALKED:
            position = self._file.tell()
            left = audio_end(self._file) - position
            self.bytes_left = left if left > JUNK_BYTES else 0

    def _counted(self, block: Samples) -> Iterator[Samples]:
        if block.shape[1]:
            self.frames += block.shape[1]
            yield block

    def _silence(self, channels: int, frames: int) -> Iterator[Samples]:
        self._concealed.append(frames)
        for start in range(0, frames, BLOCK_FRAMES):
            yield from self._counted(np.zeros((channels, min(BLOCK_FRAMES, frames - start)), np.float32))


def _refusal(file: IO[bytes], container: str, readings: list["_Reading[Any]"]) -> AudioError:
    """Return the error for a file that no decoder can read to its end."""
    size = file.seek(0, 2)
    errors = [reading.error for reading in readings if reading.error is not None]
    for error in errors:
        if error.kind not in ("unreadable", "damaged"):
            return error
    reasons = "; ".join(dict.fromkeys(error.message for error in errors))
    seconds = max(reading.frames / reading.sample_rate for reading in readings)
    if container == "unknown":
        if begins_like_mpeg(file):
            got = f"a file of {size:,} bytes that begins like an MP3 but has no two consecutive frames"
            return AudioError("unreadable", f"expected audio, got {got}: it was cut short or is not music; {RESTORE}")
        return AudioError("unreadable", f"expected audio, got a file of {size:,} bytes in no known audio format")
    if seconds:
        got = f"a file whose sound is damaged after {seconds:.1f} s ({reasons})"
        return AudioError("damaged", f"expected {container} audio, got {got}; {RESTORE}")
    got = f"a file of {size:,} bytes whose beginning is damaged, or that only begins like {container} ({reasons})"
    return AudioError("unreadable", f"expected {container} audio, got {got}; {RESTORE}")


@dataclass(frozen=True, eq=False)
class Waveform:
    """A recording at the sample rate and with the channels that a model takes."""

    samples: Samples
    """float32 [C, N]."""
    sample_rate: int
    """Hz."""
    seconds: float
    """Duration of the recording."""
    peak: float
    """Largest magnitude of a sample of the recording, before it was converted."""


def read_waveform(uri: str, sample_rate: int | None, channels: int | None) -> Waveform | AudioError:
    """Read a recording at a sample rate (Hz) and number of channels; None keeps the recording's own. Any share of
    damage is accepted, because ingest has already checked it.

    Returns:
        the waveform, or the error if it cannot be read.

    Raises:
        OSError: the disk or the network failed.
    """
    try:
        recording = read_audio(uri, max_damage=1.0)
    except AudioError as error:
        return error
    peak = float(max(recording.samples.max(), -recording.samples.min()))
    rate = sample_rate or recording.sample_rate
    samples = convert_audio(recording.samples, recording.sample_rate, rate, channels or recording.samples.shape[0])
    return Waveform(samples, rate, recording.seconds, peak)
