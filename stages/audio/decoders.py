"""The two decoders, libsndfile and FFmpeg's (by PyAV), behind one interface: an open file becomes blocks of samples.

libsndfile is the faster and stricter of the two. FFmpeg's decoders read what libsndfile cannot (AAC, ALAC, WMA, Opus in
WebM). They also go on after damage; what they lose there is replaced by silence of the same length. Samples are read in
blocks, so a header that claims too much allocates no memory.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import IO, Any

import numpy as np
import soundfile

from stages.audio.containers import DEMUXERS
from stages.audio.locations import AudioError
from stages.audio.samples import Samples
from stages.audio.surveys.flac import frame_samples
from stages.audio.tolerances import MAX_GAP_SECONDS, TOLERATED_SECONDS

MAX_CHANNELS = 64
"""Most channels that a header may claim; no recording has more, so such a header is damaged or hostile."""

MAX_SAMPLE_RATE = 768_000
"""Highest sample rate that a header may claim, Hz: twice the highest rate in use."""

BLOCK_VALUES = 2**20
"""Values (samples times channels) in a block of a stream: 4 MiB."""

BY_FFMPEG_ALONE = ("mp4", "asf", "matroska", "aac", "wavpack", "ape", "ac3")
"""Containers that libsndfile does not know."""

_ENDLESS = 2**48
"""Number of samples that no recording reaches; libsndfile reports such a number if it does not know the length."""

_STRICT = {"err_detect": "crccheck+explode"}
"""Options of FFmpeg's FLAC decoder; without them it returns the noise that damaged frames decode to."""


class DecoderError(AudioError):
    """Raised if a decoder cannot decode a file, or not all of it; another decoder may be able to."""


@dataclass
class DecoderStream:
    """A file in a decoder. `blocks` yields its samples once, in order, float32 [C, n] each."""

    format: str
    sample_rate: int
    channels: int
    claimed_frames: int | None
    """Samples per channel that the header claims; None if it claims nothing."""
    is_rounded: bool
    """Whether `claimed_frames` comes from a rounded duration."""
    blocks: Iterator[Samples]
    concealed: list[int] = field(default_factory=list)
    """The length, in samples, of each silence so far that replaces damage."""


OpenDecoder = Callable[[IO[bytes], str], AbstractContextManager[DecoderStream]]
"""Opens a file of a given container in a decoder.

Raises:
    DecoderError: the file cannot be decoded, or claims impossible values; reading `blocks` raises it too.
    OSError: the disk or the network failed.
"""


@contextmanager
def open_libsndfile(file: IO[bytes], container: str) -> Iterator[DecoderStream]:
    """Open a file in libsndfile; see `OpenDecoder`."""
    virtual = VirtualFile(file)
    try:
        opened = soundfile.SoundFile(virtual)
    except (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError) as error:
        virtual.reraise()
        raise DecoderError("unreadable", _libsndfile_reason(error)) from error
    with opened:
        _check_claims(opened.samplerate, opened.channels)
        opus = container == "ogg" and opened.subtype == "OPUS"
        name = "opus" if opus else container if container != "unknown" else opened.format.lower()
        claimed = opened.frames if 0 <= opened.frames < _ENDLESS else None
        blocks = _libsndfile_blocks(opened, virtual)
        yield DecoderStream(name, opened.samplerate, opened.channels, claimed, False, blocks)


def _libsndfile_reason(error: Exception) -> str:
    """Return libsndfile's message. For some formats it is empty, and for others it does not say what happened."""
    reason = str(getattr(error, "error_string", error)).rstrip(".")
    return f"libsndfile: {reason}" if reason else "libsndfile cannot read it"


def _libsndfile_blocks(opened: soundfile.SoundFile, virtual: "VirtualFile") -> Iterator[Samples]:
    """Yield the samples of an open file, float32 [C, n] each."""
    while True:
        try:
            block = opened.read(max(1, BLOCK_VALUES // opened.channels), dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            virtual.reraise()
            raise DecoderError("damaged", _libsndfile_reason(error)) from error
        virtual.reraise()
        if len(block) == 0:
            return
        yield np.ascontiguousarray(block.T)


def _check_claims(sample_rate: int, channels: int) -> None:
    if not 1 <= channels <= MAX_CHANNELS:
        raise DecoderError("too many channels", f"expected 1 to {MAX_CHANNELS} channels, got a header with {channels}")
    if not 1 <= sample_rate <= MAX_SAMPLE_RATE:
        raise DecoderError("sample rate", f"expected 1 to {MAX_SAMPLE_RATE} Hz, got a header with {sample_rate} Hz")


class VirtualFile:
    """A file for libsndfile's virtual I/O. It has no name, so its format is not guessed from one.

    If the disk or the network fails in a callback, libsndfile prints the error and takes it for the end of the file. So
    the error is kept here, to be raised by `reraise`."""

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
    """soundfile checks for the name `read` and calls `readinto`."""

    def seek(self, offset: int, whence: int = 0) -> int:
        return _seek(self._file, offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def reraise(self) -> None:
        """Raise the error of a callback, if one failed."""
        if self._error is not None:
            raise self._error


class _FFmpegFile:
    """A file for FFmpeg's virtual I/O."""

    def __init__(self, file: IO[bytes]) -> None:
        self.read, self.tell, self._file = file.read, file.tell, file

    def seek(self, offset: int, whence: int = 0) -> int:
        return _seek(self._file, offset, whence)


def _seek(file: IO[bytes], offset: int, whence: int) -> int:
    """Seek to a position. Return -1 if a damaged header gave one out of bounds, which is not a failure of the disk."""
    try:
        return file.seek(offset, whence)
    except (OSError, ValueError, OverflowError):
        return -1


@contextmanager
def open_ffmpeg(file: IO[bytes], container: str) -> Iterator[DecoderStream]:
    """Open a file in FFmpeg's decoders; see `OpenDecoder`."""
    import av

    file.seek(0)
    try:
        with av.open(_FFmpegFile(file), mode="r", format=DEMUXERS[container], metadata_errors="ignore") as opened:
            if not opened.streams.audio:
                raise DecoderError("no audio", f"expected audio, got a {container} file with no audio stream in it")
            audio = opened.streams.audio[0]
            if audio.codec_context is None:
                raise DecoderError("unreadable", "FFmpeg has no codec with the name in the file")
            if container == "flac":
                audio.codec_context.options = _STRICT
                audio.codec_context.thread_count = 1  # with more, a packet returns frames of earlier packets
            seconds = None
            if audio.duration and audio.time_base is not None and container not in ("mp3", "aac"):
                seconds = float(audio.duration * audio.time_base)
            elif opened.duration and container in ("asf", "matroska"):
                seconds = opened.duration / 1e6
            name = {"mp4": "m4a", "asf": "wma"}.get(container, container)
            name = "opus" if container == "ogg" and audio.codec_context.name.endswith("opus") else name
            frames = _ffmpeg_frames(opened, audio)
            first = next(frames, None)
            # A decoded frame is more reliable than the container's header.
            known = audio.codec_context if first is None or first.frame is None else first.frame
            sample_rate, channels = known.sample_rate, len(known.layout.channels)
            _check_claims(sample_rate, channels)
            claimed = None if seconds is None else round(seconds * sample_rate)
            stream = DecoderStream(name, sample_rate, channels, claimed, True, iter(()))
            if first is not None:
                stream.blocks = _ffmpeg_blocks(chain((first,), frames), stream)
            yield stream
    except (av.FFmpegError, ValueError, IndexError) as error:
        if isinstance(error, AudioError):
            raise
        raise DecoderError("unreadable", f"FFmpeg: {getattr(error, 'strerror', None) or error}") from error


@dataclass(frozen=True)
class _Frame:
    """A decoded frame, or what was lost at the end."""

    frame: Any
    """None if the last packets cannot be decoded, and so no frame follows them."""
    begins: float | None
    """Start of the frame in the stream, seconds; None if it is not known."""
    lost: float
    """Seconds of packets before the frame that cannot be decoded."""


def _ffmpeg_blocks(frames: Iterable[_Frame], stream: DecoderStream) -> Iterator[Samples]:
    """Yield the samples of decoded frames, float32 [C, n] each, with silence in place of what was lost. The length of
    each silence is added to `stream.concealed`."""
    import av

    sample_rate, channels = stream.sample_rate, stream.channels
    resampler = av.AudioResampler(format="fltp")
    parts: list[Samples] = []
    read = waiting = 0
    clock = 0.0 if stream.format == "flac" else None

    def conceal(lost: int) -> None:
        nonlocal waiting
        stream.concealed.append(lost)
        parts.append(np.zeros((channels, lost), np.float32))
        waiting += lost

    for each in frames:
        frame = each.frame
        if frame is None:
            conceal(round(each.lost * sample_rate))
            break
        if frame.sample_rate != sample_rate or len(frame.layout.channels) != channels:
            where = f"after {(read + waiting) / sample_rate:.1f} s: split it there"
            expected = "expected one sample rate and number of channels"
            raise DecoderError("mixed", f"{expected}, got a file that changes them {where}")
        # After damage the first frame may have no time. Then the next frame's time shows how much was lost.
        begins = clock if each.begins is None else each.begins
        gap = each.lost if clock is None or begins is None else begins - clock
        # A jump of the timestamps is lost sound. Small differences are only inexact timestamps.
        if gap <= MAX_GAP_SECONDS and (gap > TOLERATED_SECONDS or (each.lost and gap * sample_rate >= 1)):
            conceal(round(gap * sample_rate))
        clock = None if begins is None else begins + frame.samples / sample_rate
        for converted in resampler.resample(frame):
            # PyAV's to_ndarray counts the planes by their pointers, which gives too many beyond eight channels.
            planes = [memoryview(plane) for plane in converted.planes[:channels]]
            parts.append(np.stack([np.frombuffer(plane, np.float32, converted.samples) for plane in planes]))
            waiting += converted.samples
        if waiting * channels >= BLOCK_VALUES:
            yield np.concatenate(parts, axis=1)
            read, waiting = read + waiting, 0
            parts.clear()
    if parts:
        yield np.concatenate(parts, axis=1)


def _ffmpeg_frames(opened: Any, audio: Any) -> Iterator[_Frame]:
    """Yield every frame that can be decoded.

    Raises:
        DecoderError: the container cannot be read to its end.
        OSError: the disk or the network failed.
    """
    import av

    packets, lost = opened.demux(audio), 0.0
    is_flac, info = opened.format.name == "flac", audio.codec_context.extradata or b""
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:  # errors of the file's own `read` pass through
            raise DecoderError("damaged", f"FFmpeg: {error.strerror}") from error
        if packet is None:
            break
        try:
            frames = packet.decode()
        except av.FFmpegError:
            lost += float((packet.duration or 0) * packet.time_base)
            continue
        for number, frame in enumerate(frames):
            begins = None if frame.pts is None or frame.time_base is None else float(frame.pts * frame.time_base)
            if is_flac:
                # FFmpeg's parser gives wrong times to frames around damage, or takes several frames for one packet. The
                # position in the header of a packet's first frame is right.
                samples = frame_samples(bytes(packet)[:32], int.from_bytes(info[2:4], "big")) if number == 0 else None
                begins = None if samples is None else samples.start / frame.sample_rate
            yield _Frame(frame, begins, lost)
            lost = 0.0
    if lost:
        yield _Frame(None, None, lost)
