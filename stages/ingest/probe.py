"""Probing recordings: the identity, measures and tags of each, or why it is refused. Many are read at once, by worker
processes."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np

from stages.analysis.prints import SAMPLE_RATE, Print, PrintMeter
from stages.audio.identity import track_identity
from stages.audio.locations import AudioError, open_binary
from stages.audio.loudness import AudioMeasures, LoudnessMeter
from stages.audio.marks import Mark, read_marks
from stages.audio.quality import AudioQuality, QualityMeter
from stages.audio.reading import AudioStream, Decoded, check_damage, decode
from stages.audio.tolerances import RESTORE
from stages.audio.true_peak import PART
from stages.ingest.config import Limits
from stages.ingest.fields import Fields
from stages.ingest.listing import File
from stages.ingest.tags import read_tags
from stages.pipeline.cores import available_cores
from stages.pipeline.workers import Call, WorkerDied, WorkerPool, WorkerTimeout, map_in_order

FILES_PER_WORKER = 16
"""Files for each worker: with fewer, starting a further worker (a third of a second of processor time) is not worth
it."""

WAITING_PER_WORKER = 4
"""Files in progress for each worker. This bounds memory, and keeps the other workers busy while one reads a long
file."""

BASE_SECONDS, SECONDS_PER_MIB = 300.0, 4.0
"""How long a worker may take for a file: a hundred times the usual time, so that only a decoder that hangs exceeds
it."""

MODULES = ("mutagen", "soxr")
"""What a worker imports before its first file. PyAV is imported only for the first file that libsndfile does not
read."""


@dataclass(frozen=True)
class AudioProbe:
    """A recording that is taken. The names are those of columns of `tracks`."""

    track_id: str
    format: str
    sample_rate: int
    channels: int
    frames: int
    loudness: float | None
    true_peak: float | None
    silence: float
    clipping: float
    clipping_runs: float
    peak: float | None
    dc: float
    zeros: float
    bandwidth: float | None
    dual_mono: bool
    phase: float | None
    tags: str
    """The file's own tags: `Fields` as JSON."""
    peaks: Print | None = None
    """The print by which copies are recognised."""


@dataclass(frozen=True)
class Refused:
    """A recording that is not taken."""

    kind: str
    message: str
    lasting: bool = True
    """Whether the file itself is the reason, so that it is not read again until it changes."""


def probe_all(
    files: Sequence[File], limits: Limits, workers: int, check_stopped: Callable[[], None], at_once: int = 1
) -> Generator[tuple[File, AudioProbe | Refused]]:
    """Yield each file with the result of its probe, in the order given.

    Args:
        workers: number of worker processes. 0 is one for each core that this process may use; 1 reads in this process,
            which a decoder that crashes ends too.
        check_stopped: called between files; an exception that it raises ends the reading.
        at_once: number of jobs that share the worker processes.

    Raises:
        RuntimeError: the workers cannot be started.
    """
    count = min(max(1, (workers or available_cores()) // at_once), -(-len(files) // FILES_PER_WORKER))
    if workers == 1 or any("memory://" in file.uri for file in files):
        for file in files:
            check_stopped()
            yield file, probe_recording(file.uri, limits)
        return
    pool = WorkerPool(MODULES)
    try:
        yield from map_in_order(
            lambda file: _probe_in_worker(pool, file, limits), files, count, WAITING_PER_WORKER * count, check_stopped
        )
    finally:
        pool.close()


def _probe_in_worker(pool: WorkerPool, file: File, limits: Limits) -> AudioProbe | Refused:
    try:
        return pool.run(Call(probe_recording, (file.uri, limits)), BASE_SECONDS + SECONDS_PER_MIB * file.size / 2**20)
    except WorkerTimeout as limit:
        return Refused("timeout", f"expected a file that can be decoded within {limit}, got one that took longer")
    except WorkerDied as end:
        return Refused("crash", f"expected a file that can be decoded, got one that {end}")


def probe_recording(uri: str, limits: Limits) -> AudioProbe | Refused:
    """Read one recording: once, in blocks, for its samples, and once for its identity."""
    try:
        with open_binary(uri) as file:
            origin = _check_origin(read_marks(file), limits)
            decoded = decode(file, lambda stream: _measure(stream, limits))
            _check_sound(decoded, limits)
            sound = decoded.value
            tags = read_tags(file)
            return AudioProbe(
                track_id=track_identity(file, is_clean=not decoded.warnings),
                format=sound.format,
                sample_rate=sound.sample_rate,
                channels=sound.channels,
                frames=decoded.frames,
                **vars(sound.measures),
                **vars(sound.quality),
                tags=Fields(tags.values, (*origin, *decoded.warnings, *tags.warnings)).to_json(),
                peaks=sound.peaks,
            )
    except AudioError as error:
        return Refused(error.kind, error.message)
    except MemoryError:
        return Refused("too large", "expected a recording that fits into memory, got one that does not")
    except OSError as error:
        return Refused("unreadable", f"expected a file that can be read, got {error}", lasting=False)
    except Exception as error:  # hostile files make decoders raise anything, and the other files must still be read
        got = f"a file that breaks the decoder ({type(error).__name__}: {error})"
        return Refused("unreadable", f"expected a recording, got {got}; {RESTORE}")


@dataclass(frozen=True)
class _Sound:
    """The measures of a recording, and its print."""

    format: str
    sample_rate: int
    channels: int
    measures: AudioMeasures
    quality: AudioQuality
    peaks: Print


def _check_origin(marks: Sequence[Mark], limits: Limits) -> tuple[str, ...]:
    """Refuse a file that says that a trained model made it, or return a warning if such files are kept."""
    generated = [mark for mark in marks if mark.is_generated]
    if not generated:
        return ()
    places = ", ".join(dict.fromkeys(mark.place for mark in generated))
    message = f"expected a recording, got a file marked as {generated[0].term} ({places})"
    if limits.generated == "reject":
        raise AudioError(
            "generated", f"{message}: a trained model made it; set ingest.limits.generated=keep to accept it"
        )
    return (message,)


def _measure(stream: AudioStream, limits: Limits) -> _Sound:
    _check_format(stream.channels, stream.sample_rate, limits)
    if stream.claimed_frames is not None:
        _check_longest(stream.claimed_frames / stream.sample_rate, limits)
    import soxr

    loudness, frames = LoudnessMeter(stream.sample_rate, stream.channels), 0
    quality = QualityMeter(stream.sample_rate, stream.channels, loudness.clipping)
    peaks = PrintMeter()
    resampler = soxr.ResampleStream(stream.sample_rate, SAMPLE_RATE, 1, "float32", "MQ")
    for block in stream.blocks:
        frames += block.shape[1]
        _check_longest(frames / stream.sample_rate, limits)
        for start in range(0, block.shape[1], PART):  # small parts stay in the processor's cache
            part = block[:, start : start + PART]
            loudness.update(part)
            quality.update(part)
        peaks.update(resampler.resample_chunk(block.mean(0, dtype=np.float32)))
    if frames == 0:
        raise AudioError("empty", f"expected audio, got a {stream.format} file with no samples in it")
    peaks.update(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    measures = loudness.result(), quality.result(), peaks.result()
    return _Sound(stream.format, stream.sample_rate, stream.channels, *measures)


def _check_sound(decoded: Decoded[_Sound], limits: Limits) -> None:
    """Refuse a recording that lost too much to damage, is too short or silent, or is not scaled."""
    seconds, measures = decoded.frames / decoded.value.sample_rate, decoded.value.measures
    try:
        check_damage(decoded.damage, limits.max_damage)
        if seconds < limits.min_seconds:
            got = f"{seconds:.4g} s ({decoded.frames:,} samples)"
            raise AudioError("too short", f"expected at least {limits.min_seconds:g} s, got {got}")
        if measures.silence == 1 and limits.silent == "reject":
            peak = "all zeros" if measures.true_peak is None else f"a true peak of {measures.true_peak:.1f} dBTP"
            raise AudioError("silent", f"expected sound, got {seconds:.1f} s of silence ({peak})")
        _check_scale(decoded.value.quality.peak, limits)
    except AudioError as error:
        raise AudioError(error.kind, "; ".join([error.message, *decoded.warnings])) from error


def _check_format(channels: int, sample_rate: int, limits: Limits) -> None:
    if channels > limits.max_channels:
        raise AudioError("too many channels", f"expected at most {limits.max_channels} channels, got {channels}")
    if not limits.min_sample_rate <= sample_rate <= limits.max_sample_rate:
        wanted = f"{limits.min_sample_rate:,} to {limits.max_sample_rate:,} Hz"
        raise AudioError("sample rate", f"expected a sample rate of {wanted}, got {sample_rate:,} Hz")


def _check_longest(seconds: float, limits: Limits) -> None:
    if seconds > limits.max_seconds:
        raise AudioError("too long", f"expected at most {limits.max_seconds:g} s, got {seconds:.0f} s or more")


def _check_scale(peak: float | None, limits: Limits) -> None:
    if peak is not None and peak > limits.max_peak:
        wanted, got = f"samples of at most {limits.max_peak:+g} dBFS", f"a peak of {peak:+.1f} dBFS"
        remedy = "if they are integers stored as floats, divide them by their full scale (32768, 2**31)"
        raise AudioError("not scaled", f"expected {wanted}, got {got}; {remedy}")
