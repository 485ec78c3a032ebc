"""Reading recordings: any file that libsndfile or FFmpeg decodes, from any place that fsspec reaches.

libsndfile comes first, since it is the faster and stricter of the two; what it refuses (AAC, ALAC, WMA, Opus in WebM …)
goes to FFmpeg's decoders in PyAV, told the container that the first bytes show. Nothing is allocated on the word of a
header: samples are read in blocks, and a header is believed only when as many samples came as it said.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import soundfile

from stages.audio.containers import DEMUXERS, PROBE_BYTES, container_of, first_frame, skip_id3
from stages.audio.locations import AudioError, open_binary
from stages.audio.samples import Samples, convert_audio

MAX_CHANNELS = 64
"""More channels than any recording has; a header that claims more is damaged or hostile."""

MAX_SAMPLE_RATE = 768_000
"""Hz; twice the highest rate in use."""

BLOCK_VALUES = 2**20
"""Values (samples times channels) in a block of a stream: 4 MiB."""

FRAMES_MISSING = 4608
"""Samples that a stream may lack of what its header says: four MPEG frames, which encoders miscount by."""

SECONDS_MISSING = 0.5
"""What a stream in FFmpeg's containers may lack: their durations are rounded and count the encoder's padding."""


@dataclass(frozen=True)
class DecodedAudio:
    """A decoded recording: `samples` float32 [C, N], all finite, `sample_rate` in Hz, `format` as in `tracks`."""

    samples: Samples
    sample_rate: int
    format: str

    @property
    def seconds(self) -> float:
        return self.samples.shape[1] / self.sample_rate


@dataclass(frozen=True)
class AudioStream:
    """An open recording. `blocks` gives its samples once, in order, float32 [C, n] each; it ends with an `AudioError`
    where the file holds less than its header says."""

    format: str
    sample_rate: int
    channels: int
    claimed_frames: int | None
    """Samples a channel that the header promises; None where it says nothing."""
    blocks: Iterator[Samples]


def read_audio(uri: str, max_seconds: float = 4 * 3600.0) -> DecodedAudio:
    """Read a whole recording.

    Raises:
        AudioError: it cannot be found or decoded, is empty, cut short, longer than `max_seconds`, or not finite.
        OSError: the disk or the network failed.
    """
    with open_binary(uri) as file, stream_audio(file) as stream:
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


@contextmanager
def stream_audio(file: IO[bytes]) -> Iterator[AudioStream]:
    """Open a recording, to read it in blocks with memory bounded whatever its length.

    Raises:
        AudioError: it cannot be decoded, or its header claims what no recording has.
        OSError: the disk or the network failed.
    """
    container = container_of(file)
    refusal = ""
    if container not in DEMUXERS or not _needs_ffmpeg(file, container):
        virtual = VirtualFile(file)
        try:
            opened = soundfile.SoundFile(virtual)
        except (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError) as error:
            virtual.reraise()
            refusal = str(getattr(error, "error_string", error))
        else:
            with opened:
                _check_claims(opened.samplerate, opened.channels)
                opus = container == "ogg" and opened.subtype == "OPUS"
                name = "opus" if opus else container if container != "unknown" else opened.format.lower()
                frames = opened.frames
                yield AudioStream(name, opened.samplerate, opened.channels, frames, _libsndfile_blocks(opened, virtual))
            return
    if container not in DEMUXERS:
        file.seek(0, 2)
        if file.tell() == 0:
            raise AudioError("empty", "expected a recording, got a file of zero bytes")
        raise AudioError("unreadable", f"expected audio, got a file of no known audio format ({refusal.rstrip('.')})")
    yield from _ffmpeg_stream(file, container, refusal)


def _needs_ffmpeg(file: IO[bytes], container: str) -> bool:
    """Tell MPEG audio with no Xing, Info or VBRI frame, which does not say how long it is: libsndfile guesses from the
    first frame's bit rate and stops at its guess, which for a variable rate may be half of the music."""
    if container != "mp3":
        return False
    file.seek(skip_id3(file))
    head = file.read(PROBE_BYTES)
    start = first_frame(head) or 0
    return not any(mark in head[start : start + 200] for mark in (b"Xing", b"Info", b"VBRI"))


def _check_claims(sample_rate: int, channels: int) -> None:
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError("too many channels", f"expected 1 to {MAX_CHANNELS} channels, got a header of {channels}")
    if not 1 <= sample_rate <= MAX_SAMPLE_RATE:
        raise AudioError("sample rate", f"expected 1 to {MAX_SAMPLE_RATE} Hz, got a header of {sample_rate} Hz")


class VirtualFile:
    """A file for libsndfile's virtual I/O. It has no name to go by, and keeps the error of a disk or network that
    failed inside a callback, where it would be printed and taken for the end of the file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._error: OSError | None = None
        file.seek(0)

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._file.read(len(buffer))
        except OSError as error:
            self._error = error
            return 0
        buffer[: len(data)] = data
        return len(data)

    read = readinto
    """soundfile asks for the name `read` and calls `readinto`."""

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def reraise(self) -> None:
        if self._error is not None:
            raise self._error


def _libsndfile_blocks(opened: soundfile.SoundFile, virtual: VirtualFile) -> Iterator[Samples]:
    read, claimed = 0, opened.frames
    while True:
        try:
            block = opened.read(max(1, BLOCK_VALUES // opened.channels), dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            virtual.reraise()
            reason = str(getattr(error, "error_string", error)).rstrip(".")
            seconds = f"{claimed / opened.samplerate:.1f} s of audio"
            raise AudioError("truncated", f"expected {seconds}, got a cut or damaged file: {reason}") from error
        virtual.reraise()
        if len(block) == 0:
            break
        read += len(block)
        yield np.ascontiguousarray(block.T)
    if read < claimed - FRAMES_MISSING:
        raise AudioError("truncated", _shortfall(read, claimed, opened.samplerate))


def _shortfall(read: int, claimed: int, sample_rate: int) -> str:
    return f"expected {claimed / sample_rate:.1f} s by the header, got {read / sample_rate:.1f} s that can be decoded"


def _ffmpeg_stream(file: IO[bytes], container: str, refusal: str) -> Iterator[AudioStream]:
    import av

    file.seek(0)
    try:
        with av.open(file, mode="r", format=DEMUXERS[container], metadata_errors="ignore") as opened:
            if not opened.streams.audio:
                raise AudioError("no audio", f"expected audio, got a {container} file with no audio stream in it")
            audio = opened.streams.audio[0]
            sample_rate, channels = audio.codec_context.sample_rate, audio.codec_context.channels
            _check_claims(sample_rate, channels)
            seconds = None
            if audio.duration is not None and audio.time_base is not None and container not in ("mp3", "aac"):
                seconds = float(audio.duration * audio.time_base)
            elif opened.duration is not None and container in ("asf", "matroska"):
                seconds = opened.duration / 1e6
            claimed = None if seconds is None else round(seconds * sample_rate)
            name = {"mp4": "m4a", "asf": "wma"}.get(container, container)
            yield AudioStream(name, sample_rate, channels, claimed, _ffmpeg_blocks(opened, audio, claimed))
    except (av.FFmpegError, ValueError, IndexError) as error:
        if isinstance(error, AudioError):
            raise
        why = getattr(error, "strerror", None) or str(error)
        also = f"; libsndfile: {refusal.rstrip('.')}" if refusal else ""
        raise AudioError(
            "unreadable", f"expected {container} audio, got a file that cannot be decoded: {why}{also}"
        ) from error


def _ffmpeg_blocks(opened: Any, audio: Any, claimed: int | None) -> Iterator[Samples]:
    import av

    sample_rate, channels = audio.codec_context.sample_rate, audio.codec_context.channels
    resampler = av.AudioResampler(format="fltp")
    parts, waiting, read = [], 0, 0
    try:
        for frame in opened.decode(audio):
            if frame.sample_rate != sample_rate or len(frame.layout.channels) != channels:
                if read + waiting:
                    raise AudioError("unreadable", "expected one sample rate and layout, got a file that changes them")
                sample_rate, channels = frame.sample_rate, len(frame.layout.channels)
            for converted in resampler.resample(frame):
                parts.append(converted.to_ndarray())
                waiting += converted.samples
            if waiting * channels >= BLOCK_VALUES:
                yield np.concatenate(parts, axis=1)
                read, parts, waiting = read + waiting, [], 0
    except av.FFmpegError as error:
        if isinstance(error, OSError) and not isinstance(error, av.error.InvalidDataError):
            raise
        got = f"got damaged data after {(read + waiting) / sample_rate:.1f} s"
        raise AudioError("truncated", f"expected {audio.codec_context.name} audio, {got}: {error.strerror}") from error
    if parts:
        yield np.concatenate(parts, axis=1)
        read += waiting
    if claimed is not None and read < claimed - SECONDS_MISSING * sample_rate:
        raise AudioError("truncated", _shortfall(read, claimed, sample_rate))


@dataclass(frozen=True, eq=False)
class Waveform:
    """A recording at the rate and in the channels that a model takes."""

    samples: Samples
    """float32 [C, N]."""
    sample_rate: int
    """Hz."""
    seconds: float
    """How long the recording is."""
    peak: float
    """The largest magnitude of a sample of the recording."""


def read_waveform(uri: str, sample_rate: int | None, channels: int | None) -> Waveform | AudioError:
    """Read a recording at a rate (Hz) and number of channels, or as it is stored where these are None.

    Returns:
        the waveform, or why it cannot be read.

    Raises:
        OSError: the disk or the network failed.
    """
    try:
        recording = read_audio(uri)
    except AudioError as error:
        return error
    peak = float(max(recording.samples.max(), -recording.samples.min()))
    rate = sample_rate or recording.sample_rate
    samples = convert_audio(recording.samples, recording.sample_rate, rate, channels or recording.samples.shape[0])
    return Waveform(samples, rate, recording.seconds, peak)
