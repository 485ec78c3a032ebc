"""Levelling: sound as a file at a loudness, whose decoded sound keeps the true-peak limit.

A lossy format can come back above the limit that its samples kept. So a file is decoded again before it is given away,
and one that is over is turned down and encoded again: a little lower under the limiter at first, and where that is not
enough, as a whole, by what it is over.
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

LIMITED = 3
"""How often the limiter is set lower before the whole is turned down."""

ATTEMPTS = 12
"""How often a file is encoded at most."""

SPARE = 0.01
"""By how much more than it is over a file is turned down, dB; growing with each attempt."""


@dataclass(frozen=True)
class LevelledFile:
    """A file, and what was measured of its decoded sound."""

    data: bytes
    seconds: float
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
    """Encode sound [C, N] at an integrated loudness, so that its decoded sound keeps a true-peak limit.

    Args:
        loudness: LUFS; None leaves the sound as loud as it is.
        true_peak: the highest that the decoded sound may have, dBTP.
        source: see `encode_audio`.
        mark: returns what is added to levelled sound, of its sample rate, last of all: a watermark [1, N].

    Raises:
        ValueError: the samples are not finite, or the format cannot hold them.
    """
    limit, down, added = true_peak, 0.0, None
    target = measure_audio(sound, sample_rate).loudness if loudness is None else loudness
    for attempt in range(ATTEMPTS):
        levelled, _gain = normalise_loudness(sound, sample_rate, 0.0 if target is None else target, limit)
        if mark is not None:
            added = mark(levelled, sample_rate) if added is None else added  # later attempts differ by parts of a dB
            levelled = np.clip(levelled + added, -1, 1)
        levelled = levelled * np.float32(10 ** (-down / 20))
        data = encode_audio(levelled, sample_rate, format, tags, bits, source)
        decoded, _rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
        file = LevelledFile(data, len(decoded) / sample_rate, measure_audio(decoded.T, sample_rate))
        over = (-np.inf if file.measures.true_peak is None else file.measures.true_peak) - true_peak
        if over <= 0:
            return file
        if attempt < LIMITED:
            limit -= float(over) + SPARE
        else:
            down += float(over) + SPARE * (attempt + 1)
    raise ValueError(
        f"expected {format} to keep {true_peak:g} dBTP after {ATTEMPTS} attempts, got {over:.2f} dB more: "
        "give a lower true peak or another format"
    )
