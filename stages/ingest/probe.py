"""What is in one recording: its identity, its measures and its own tags, or why it is refused."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from schemas import Config
from stages.audio.identity import track_identity
from stages.audio.locations import AudioError, open_binary
from stages.audio.loudness import LoudnessMeter
from stages.audio.reading import MAX_CHANNELS, MAX_SAMPLE_RATE, stream_audio
from stages.ingest.metadata.tags import read_tags


class Limits(Config):
    """Which recordings are taken."""

    min_seconds: float = Field(default=0.5, gt=0)
    """Shorter recordings are refused, seconds: a loudness needs 0.4 s, and there is no music to learn in less."""
    max_seconds: float = Field(default=4 * 3600.0, gt=0)
    """Longer recordings are refused, seconds. Stages after this one hold a whole recording in memory."""
    max_channels: int = Field(default=32, ge=1, le=MAX_CHANNELS)
    """Recordings with more channels are refused."""
    min_sample_rate: int = Field(default=8_000, ge=4_000)
    """Hz. Below, there is little music left, and loudness is not defined."""
    max_sample_rate: int = Field(default=384_000, le=MAX_SAMPLE_RATE)
    """Hz."""
    silent: Literal["reject", "keep"] = "reject"
    """What to do with a recording that is silent from end to end (no window of 50 ms reaches an RMS of -60 dBFS)."""


@dataclass(frozen=True)
class Examined:
    """A recording that is taken; the names are those of `tracks`."""

    track_id: str
    format: str
    sample_rate: int
    channels: int
    frames: int
    loudness: float | None
    true_peak: float | None
    silence: float
    clipping: float
    tags: str
    """The file's own tags: `Fields` as JSON."""


@dataclass(frozen=True)
class Refused:
    """A recording that is not taken."""

    kind: str
    message: str
    lasting: bool = True
    """The file is to blame, so that it is not read again before it changes."""


def examine(uri: str, limits: Limits) -> Examined | Refused:
    """Read one recording, once for its identity and once for its sound, in blocks."""
    try:
        with open_binary(uri) as file:
            track_id = track_identity(file)
            with stream_audio(file) as stream:
                _check_header(stream.channels, stream.sample_rate, limits)
                if stream.claimed_frames is not None:
                    _check_longest(stream.claimed_frames / stream.sample_rate, limits)
                meter, frames = LoudnessMeter(stream.sample_rate, stream.channels), 0
                for block in stream.blocks:
                    frames += block.shape[1]
                    _check_longest(frames / stream.sample_rate, limits)
                    if not np.isfinite(block).all():
                        raise AudioError("not finite", "expected finite samples, got NaN or infinity")
                    meter.update(block)
                if frames == 0:
                    raise AudioError("empty", f"expected audio, got a {stream.format} file with no samples in it")
                seconds, measures = frames / stream.sample_rate, meter.result()
            if seconds < limits.min_seconds:
                got = f"{seconds:.4g} s ({frames:,} samples)"
                raise AudioError("too short", f"expected at least {limits.min_seconds:g} s, got {got}")
            if measures.silence == 1 and limits.silent == "reject":
                peak = "all zeros" if measures.true_peak is None else f"a true peak of {measures.true_peak:.1f} dBTP"
                raise AudioError("silent", f"expected sound, got {seconds:.1f} s of silence ({peak})")
            found = (track_id, stream.format, stream.sample_rate, stream.channels, frames)
            values = (measures.loudness, measures.true_peak, measures.silence, measures.clipping)
            return Examined(*found, *values, read_tags(file).to_json())
    except AudioError as error:
        return Refused(error.kind, error.message)
    except MemoryError:
        return Refused("too large", "expected a recording that fits into memory, got one that does not")
    except OSError as error:
        return Refused("unreadable", f"expected a file that can be read, got {error}", lasting=False)
    except Exception as error:  # what decoders raise on hostile files has no common base, and the other files count
        return Refused("unreadable", f"expected a recording, got one that fails with {type(error).__name__}: {error}")


def _check_header(channels: int, sample_rate: int, limits: Limits) -> None:
    if channels > limits.max_channels:
        raise AudioError("too many channels", f"expected at most {limits.max_channels} channels, got {channels}")
    if not limits.min_sample_rate <= sample_rate <= limits.max_sample_rate:
        wanted = f"{limits.min_sample_rate:,} to {limits.max_sample_rate:,} Hz"
        raise AudioError("sample rate", f"expected a sample rate of {wanted}, got {sample_rate:,} Hz")


def _check_longest(seconds: float, limits: Limits) -> None:
    if seconds > limits.max_seconds:
        raise AudioError("too long", f"expected at most {limits.max_seconds:g} s, got {seconds:.0f} s or more")
