"""Levelling: encoding sound as a file at a given loudness, so that the decoded file keeps the true-peak limit.

The decoded sound of a lossy file can exceed the limit that the samples kept. So each file is decoded before it is
returned, and one that exceeds the limit is turned down and encoded again. The first attempts lower the limit of the
limiter. If that is not enough, later attempts turn down the whole sound.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import soundfile

from stages.audio.loudness import AudioMeasures, measure_audio, normalise_loudness
from stages.audio.marks import SourceType
from stages.audio.samples import Samples
from stages.audio.writing import AudioFormat, encode_audio

LIMITER_ATTEMPTS = 3
"""Attempts that lower the limiter's limit before the whole sound is turned down instead."""

ATTEMPTS = 12
"""Most attempts at encoding a file."""

MARGIN_DECIBELS = 0.01
"""Decibels by which a file is turned down beyond its excess over the limit; multiplied by the attempt's number once the
whole sound is turned down."""


@dataclass(frozen=True)
class LevelledFile:
    """An encoded file, and the measures of its decoded sound."""

    data: bytes
    seconds: float
    """Duration of the decoded sound."""
    measures: AudioMeasures


def encode_at_level(
    sound: Samples,
    sample_rate: int,
    format: AudioFormat,
    tags: Mapping[str, str],
    *,
    bits: Literal[16, 24] = 16,
    loudness: float | None,
    true_peak: float,
    source: SourceType | None,
    mark: Callable[[Samples, int], Samples] | None = None,
) -> LevelledFile:
    """Encode sound [C, N] at an integrated loudness, so that the decoded file keeps a true-peak limit.

    Args:
        loudness: target, LUFS; None keeps the sound's own loudness.
        true_peak: highest true peak of the decoded file, dBTP.
        source: see `encode_audio`.
        mark: a function of levelled sound and its sample rate that returns a watermark [1, N], which is added to the
            levelled sound last.

    Raises:
        ValueError: the samples are not finite, the format cannot hold them, or every attempt exceeds the limit.
    """
    limit, attenuation, added = true_peak, 0.0, None
    target = measure_audio(sound, sample_rate).loudness if loudness is None else loudness
    for attempt in range(ATTEMPTS):
        levelled, _gain = normalise_loudness(sound, sample_rate, 0.0 if target is None else target, limit)
        if mark is not None:
            added = mark(levelled, sample_rate) if added is None else added  # later attempts differ by under a dB
            levelled = np.clip(levelled + added, -1, 1)
        levelled = levelled * np.float32(10 ** (-attenuation / 20))
        data = encode_audio(levelled, sample_rate, format, tags, bits, source)
        decoded, _rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
        file = LevelledFile(data, len(decoded) / sample_rate, measure_audio(decoded.T, sample_rate))
        excess = (-np.inf if file.measures.true_peak is None else file.measures.true_peak) - true_peak
        if excess <= 0:
            return file
        if attempt < LIMITER_ATTEMPTS:
            limit -= float(excess) + MARGIN_DECIBELS
        else:
            attenuation += float(excess) + MARGIN_DECIBELS * (attempt + 1)
    raise ValueError(
        f"expected {format} to stay within {true_peak:g} dBTP after {ATTEMPTS} attempts, got {excess:.2f} dB more: "
        "set a lower true peak or another format"
    )
