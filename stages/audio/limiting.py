"""Bringing a clip to a loudness without ever clipping it: a gain, then a look-ahead limiter on the true peak.

The limiter never bends the waveform: it turns the gain down before a peak and up again after it, along a smooth curve.
The gain that each sample needs is held over a window around it (a minimum filter), and the held curve is averaged three
times over windows that are together no longer than that, so that the average is never above what a sample needs.
"""

import numpy as np

from stages.audio.loudness import measure_audio

LOOK_AHEAD = 0.02
"""Seconds before and after a peak over which the gain moves: slow enough to leave a bass note's shape alone."""


def normalise_loudness(
    samples: np.ndarray, sample_rate: int, target_lufs: float, peak_dbtp: float
) -> tuple[np.ndarray, float]:
    """Bring float32 [C, N] to `target_lufs` (BS.1770) with its true peak at most `peak_dbtp`.

    Where peaks must be limited, the loudness ends a little below the target. Silence, and less than 0.4 s, have no
    loudness and get no gain.

    Returns:
        the samples, float32 [C, N], and the gain in dB that was given before limiting.

    Raises:
        ValueError: the samples are not finite, or the limit is above 0 dBTP.
    """
    if not np.isfinite(samples).all():
        raise ValueError("expected finite samples, got NaN or infinity")
    if peak_dbtp > 0:
        raise ValueError(f"expected a true-peak limit of at most 0 dBTP, got {peak_dbtp:g}")
    loudness = measure_audio(samples, sample_rate).loudness
    gain = 0.0 if loudness is None else target_lufs - loudness
    louder = samples.astype(np.float32) * np.float32(10 ** (gain / 20))
    return limit_true_peak(louder, sample_rate, peak_dbtp), gain


def limit_true_peak(samples: np.ndarray, sample_rate: int, peak_dbtp: float) -> np.ndarray:
    """Return float32 [C, N] with a true peak of at most `peak_dbtp`; what keeps it already is returned unchanged."""
    from scipy.ndimage import minimum_filter1d, uniform_filter1d

    before = measure_audio(samples, sample_rate).true_peak
    if before is None or before <= peak_dbtp:
        return samples
    limit = 10 ** (peak_dbtp / 20)
    needed = np.minimum(1.0, limit / np.maximum(_envelope(samples, sample_rate), limit))
    reach = max(1, round(LOOK_AHEAD * sample_rate / 3))
    curve = minimum_filter1d(needed, 6 * reach + 1, mode="nearest")
    for _ in range(3):
        curve = uniform_filter1d(curve, 2 * reach + 1, mode="nearest")
    limited = (samples * curve).astype(np.float32)
    # A moving gain shifts the peaks between samples by a hair; what is left over goes by a gain for the whole clip.
    for _ in range(4):
        after = measure_audio(limited, sample_rate).true_peak
        if after is None or after <= peak_dbtp:
            break
        limited = limited * np.float32(10 ** ((peak_dbtp - after) / 20) * (1 - 1e-6))
    return limited


def _envelope(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """The largest magnitude of any channel in the quarter samples around each sample: [C, N] → [N]."""
    import soxr

    length = samples.shape[1]
    finer = np.abs(soxr.resample(np.ascontiguousarray(samples.T), sample_rate, 4 * sample_rate, quality="HQ"))
    peaks = np.zeros(4 * length + 8)
    count = min(len(finer), 4 * length)
    peaks[4 : 4 + count] = finer[:count].max(axis=1)
    around = np.max([peaks[offset : offset + 4 * length : 4] for offset in range(1, 8)], axis=0)
    return np.maximum(around, np.abs(samples).max(axis=0))
