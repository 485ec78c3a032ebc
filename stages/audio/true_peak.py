"""True peak (ITU-R BS.1770-5, Annex 2), the highest value of a recording at four times its rate; and a limiter for it.

Between two samples a band-limited signal cannot rise far above both. An interpolated value is a point on the straight
line between them plus a remainder, which is a filter of second differences; the sum of the filter's magnitudes bounds
the remainder. So only chunks that could exceed the highest value known so far are interpolated, those with the highest
bounds first. In music these are a hundredth of all chunks; in noise they are all.

The limiter does not clip the waveform: it lowers the gain before a peak and raises it again after it, along a smooth
curve. For each sample it takes the minimum over a window of the gains that the samples in it need. This minimum is then
averaged three times, over windows that together are no longer than the first, so the average never exceeds the gain
that a sample needs.
"""

import math

import numpy as np
import numpy.typing as npt

from stages.audio.samples import Samples

PART = 2**17
"""Samples per channel that are measured at a time: arrays of a megabyte, small compared with a whole recording."""

OVERSAMPLING = 4

CHUNK = 512
"""Samples that are interpolated or skipped together."""

REACH = 100
"""Samples on either side that an interpolated value depends on, at soxr's high quality, whose kernel has 96."""

CURVATURE = 0.8
"""Bound on how far an interpolated value can exceed the samples around it, as a multiple of the largest second
difference within reach: 0.75 halfway between two samples, and a little for the kernel's ripple."""

CHUNKS_AT_ONCE = 32
"""Chunks that are interpolated before the bounds of the remaining ones are compared with the peak again."""

LOOK_AHEAD = 0.02
"""Seconds before and after a peak over which the limiter's gain changes: slow enough to keep the shape of a bass
note."""


class TruePeakMeter:
    """Measures the true peak of a stream: call `update` with blocks [C, n] in order, then `result`."""

    def __init__(self, channels: int) -> None:
        self._peak = 0.0
        self._kept: Samples = np.zeros((channels, CHUNK), np.float32)

    def update(self, block: Samples) -> None:
        self._search(block, end=0)

    def result(self) -> float:
        """Return the highest magnitude in all channels; call it once, at the end."""
        waiting = self._kept.shape[1] - CHUNK
        self._search(np.zeros((len(self._kept), 3 * CHUNK), np.float32), end=waiting)
        return self._peak

    def _search(self, block: Samples, end: int) -> None:
        """Search the chunks whose neighbours have arrived. The last two chunks, and samples after them, wait for more.

        Args:
            end: where the recording ends, in samples after the start of the first chunk that is searched; 0 if it
                continues.
        """
        samples = np.concatenate([self._kept, block], axis=1, dtype=np.float32)
        count = samples.shape[1] // CHUNK
        if count < 3:
            self._kept = samples
            return
        self._kept = samples[:, (count - 2) * CHUNK :]
        levels = _chunk_maxima(np.abs(samples[:, : count * CHUNK]))
        self._peak = max(self._peak, float(levels.max()))
        bounds = _chunk_bounds(samples, levels)
        windows = np.lib.stride_tricks.sliding_window_view(samples, CHUNK + 2 * REACH, axis=1)
        channels, chunks = np.nonzero(bounds > self._peak)
        order = np.argsort(-bounds[channels, chunks])
        while len(order):
            now, order = order[:CHUNKS_AT_ONCE], order[CHUNKS_AT_ONCE:]
            starts = (chunks[now] + 1) * CHUNK - REACH
            finer = _interpolate(windows[channels[now], starts])
            if end:
                positions = chunks[now, None] * CHUNK + np.arange(OVERSAMPLING * CHUNK) / OVERSAMPLING
                finer[positions >= end] = 0
            self._peak = max(self._peak, float(np.abs(finer).max()))
            order = order[bounds[channels[order], chunks[order]] > self._peak]


def _chunk_bounds(samples: Samples, levels: Samples) -> Samples:
    """Return for each chunk a bound that no interpolated value in it exceeds.

    Args:
        samples: [C, N].
        levels: the highest magnitude in each chunk, [C, chunks].

    Returns:
        the bounds of all chunks except the first and the last, [C, chunks - 2].
    """
    whole = samples[:, : levels.shape[1] * CHUNK]
    slopes = whole[:, 1:] - whole[:, :-1]
    bends = np.zeros(whole.shape, np.float32)
    np.subtract(slopes[:, 1:], slopes[:, :-1], out=bends[:, 1:-1])
    curvature = _chunk_maxima(np.abs(bends, out=bends))
    around = np.maximum(np.maximum(curvature[:, :-2], curvature[:, 1:-1]), curvature[:, 2:])
    following = np.abs(whole[:, 2 * CHUNK :: CHUNK])
    bounds: Samples = np.maximum(levels[:, 1:-1], following) + CURVATURE * around
    return bounds


def _chunk_maxima(magnitudes: Samples) -> Samples:
    """Return the highest magnitude in each chunk: [C, chunks * CHUNK] → [C, chunks]."""
    maxima: Samples = magnitudes.reshape(len(magnitudes), -1, CHUNK).max(axis=2)
    return maxima


def _interpolate(windows: Samples) -> Samples:
    """Resample the middle of each window to four times the rate: [windows, CHUNK + 2 * REACH] → [windows, 4 * CHUNK].

    All windows are resampled as one stream; a window's neighbours do not reach its middle."""
    import soxr

    finer = soxr.resample(windows.reshape(-1), 1, OVERSAMPLING, quality="HQ").reshape(len(windows), -1)
    middles: Samples = finer[:, OVERSAMPLING * REACH : OVERSAMPLING * (REACH + CHUNK)]
    return middles


def decibels(peak: float) -> float | None:
    """Return a magnitude in dB below full scale; None for silence."""
    return 20 * math.log10(peak) if peak > 0 else None


def _true_peak(samples: Samples) -> float | None:
    """Return the true peak of a whole recording, dBTP."""
    meter = TruePeakMeter(len(samples))
    for start in range(0, samples.shape[1], PART):
        meter.update(samples[:, start : start + PART])
    return decibels(meter.result())


def limit_true_peak(samples: Samples, sample_rate: int, peak_dbtp: float) -> Samples:
    """Limit samples [C, N] to a true peak of at most `peak_dbtp`; samples that keep it already are returned
    unchanged."""
    from scipy.ndimage import minimum_filter1d, uniform_filter1d

    before = _true_peak(samples)
    if before is None or before <= peak_dbtp:
        return samples
    limit = 10 ** (peak_dbtp / 20)
    needed = np.minimum(1.0, limit / np.maximum(_envelope(samples, sample_rate), limit))
    reach = max(1, round(LOOK_AHEAD * sample_rate / 3))
    gain = minimum_filter1d(needed, 6 * reach + 1, mode="nearest")
    for _ in range(3):
        gain = uniform_filter1d(gain, 2 * reach + 1, mode="nearest")
    limited: Samples = (samples * gain).astype(np.float32)
    # A changing gain moves the peaks between samples slightly. A gain for the whole clip removes what still exceeds the
    # limit.
    for _ in range(4):
        after = _true_peak(limited)
        if after is None or after <= peak_dbtp:
            break
        limited = limited * np.float32(10 ** ((peak_dbtp - after) / 20) * (1 - 1e-6))
    return limited


def _envelope(samples: Samples, sample_rate: int) -> npt.NDArray[np.float64]:
    """Return for each sample the largest magnitude of any channel, also between it and its neighbours: [C, N] → [N]."""
    import soxr

    length = samples.shape[1]
    finer = np.abs(soxr.resample(np.ascontiguousarray(samples.T), sample_rate, 4 * sample_rate, quality="HQ"))
    peaks = np.zeros(4 * length + 8)
    count = min(len(finer), 4 * length)
    peaks[4 : 4 + count] = finer[:count].max(axis=1)
    around = np.max([peaks[offset : offset + 4 * length : 4] for offset in range(1, 8)], axis=0)
    envelope: npt.NDArray[np.float64] = np.maximum(around, np.abs(samples).max(axis=0))
    return envelope
