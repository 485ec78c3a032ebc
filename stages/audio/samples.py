"""Samples in memory, float32 [C, N] throughout: their type, their rate and their channels."""

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
"""Channels by samples, [C, N]."""

INAUDIBLE = 1e-4
"""Peak (-80 dBFS) below which a signal is silence: only rounding errors of decoders and resamplers are that small."""


def resample(samples: Samples, source_rate: int, target_rate: int) -> Samples:
    """Resample from `source_rate` to `target_rate` (Hz) by soxr's high quality: 132 dB, linear phase, no delay.

    Returns:
        [C, N'] with N' = N * target_rate / source_rate, rounded.
    """
    if source_rate == target_rate or samples.shape[1] == 0:
        return samples
    import soxr

    return np.ascontiguousarray(soxr.resample(samples.T, source_rate, target_rate, quality="HQ").T.astype(np.float32))


def to_mono(samples: Samples) -> Samples:
    """Return the mean of the channels: [C, N] → [1, N]."""
    return samples.mean(axis=0, keepdims=True, dtype=np.float32) if samples.shape[0] > 1 else samples


def convert_audio(samples: Samples, source_rate: int, target_rate: int, channels: int) -> Samples:
    """Convert samples to `channels` channels at `target_rate` (Hz), as a network takes them: for one channel the mean
    of all, else the first channels, or a single channel repeated."""
    if channels == 1:
        samples = to_mono(samples)
    resampled = resample(samples[:channels], source_rate, target_rate)
    return np.repeat(resampled, channels, axis=0) if resampled.shape[0] == 1 < channels else resampled
