"""How loud a recording is, and how much of it is silent or clipped, in one pass over blocks of any length.

Loudness is ITU-R BS.1770's integrated loudness: K-weighted (pyloudnorm's filters), 400 ms blocks at 75 % overlap, gated
absolutely at -70 LUFS and relatively at -10 LU. True peak is its Annex 2: the highest value at four times the rate.
pyloudnorm itself wants all samples at once, which a four-hour mix does not afford.
"""

import math
from dataclasses import dataclass

import numpy as np

SILENCE_DBFS = -60.0
"""A window whose every channel has an RMS below this is silent."""

SILENCE_WINDOW = 0.05
"""Seconds of such a window; windows do not overlap, and the last may be shorter."""

FULL_SCALE = 32_767 / 32_768
"""A sample at or beyond 16-bit full scale counts as clipped."""

_GATE_LUFS, _RELATIVE_GATE, _OFFSET = -70.0, -10.0, -0.691


@dataclass(frozen=True)
class Measures:
    """What was measured of a recording."""

    loudness: float | None
    """Integrated loudness, LUFS; None under 0.4 s, or where nothing is above the gate of -70 LUFS."""
    true_peak: float | None
    """dBTP; None where every sample is zero."""
    silence: float
    """Share of windows that are silent, 0 to 1."""
    clipping: float
    """Share of samples at or beyond full scale, 0 to 1."""


def measure(samples: np.ndarray, sample_rate: int) -> Measures:
    """The measures of float samples [C, N]."""
    meter = Meter(sample_rate, samples.shape[0])
    meter.update(samples)
    return meter.result()


class Meter:
    """Measures a stream: `update` with blocks [C, n] in order, then `result`.

    Args:
        sample_rate: Hz.
        channels: their order is WAV's. Surround channels weigh 1.41; the low-frequency one of 5.1 and 7.1 nothing.
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        import pyloudnorm
        import soxr

        filters = pyloudnorm.Meter(sample_rate)._filters
        self._filters = [(one.b, one.a, np.zeros((channels, 2))) for one in filters.values()]
        weights = {5: (1, 1, 1, 1.41, 1.41), 6: (1, 1, 1, 0, 1.41, 1.41), 8: (1, 1, 1, 0, *[1.41] * 4)}
        self._weights = np.array(weights.get(channels, [1.0] * channels))
        self._hops = _Windows(sample_rate, 0.1)
        self._windows = _Windows(sample_rate, SILENCE_WINDOW)
        self._oversampler = soxr.ResampleStream(sample_rate, 4 * sample_rate, channels, dtype="float32", quality="HQ")
        self._peak, self._clipped, self._values = 0.0, 0, 0

    def update(self, block: np.ndarray) -> None:
        from scipy.signal import lfilter

        if block.shape[1] == 0:
            return
        magnitude = np.abs(block)
        self._clipped += int((magnitude >= FULL_SCALE).sum())
        self._values += block.size
        self._peak = max(self._peak, float(magnitude.max()), self._oversampled_peak(block, last=False))
        self._windows.update(np.square(block, dtype=np.float64))
        weighted = block.astype(np.float64)
        for position, (b, a, state) in enumerate(self._filters):
            weighted, state = lfilter(b, a, weighted, axis=1, zi=state)
            self._filters[position] = (b, a, state)
        self._hops.update(np.square(weighted))

    def result(self) -> Measures:
        if self._values == 0:
            return Measures(None, None, 1.0, 0.0)
        peak = max(self._peak, self._oversampled_peak(np.zeros((len(self._weights), 0), np.float32), last=True))
        means = self._windows.means(partial=True)
        silent = (means.max(axis=0) < 10 ** (SILENCE_DBFS / 10)).mean()
        decibels = 20 * math.log10(peak) if peak > 0 else None
        return Measures(self._loudness(), decibels, float(silent), self._clipped / self._values)

    def _oversampled_peak(self, block: np.ndarray, last: bool) -> float:
        finer = self._oversampler.resample_chunk(np.ascontiguousarray(block.T, dtype=np.float32), last=last)
        return float(np.abs(finer).max()) if finer.size else 0.0

    def _loudness(self) -> float | None:
        hops = self._weights @ self._hops.means(partial=False)
        if len(hops) < 4:
            return None
        blocks = np.convolve(hops, np.full(4, 0.25), mode="valid")
        loud = blocks[_lufs(blocks) > _GATE_LUFS]
        if len(loud) == 0:
            return None
        above = loud[_lufs(loud) > _lufs(loud.mean()) + _RELATIVE_GATE]
        return float(_lufs(above.mean()))


class _Windows:
    """Means of consecutive windows of a stream of energies [C, n], whatever the lengths of its blocks."""

    def __init__(self, sample_rate: int, seconds: float) -> None:
        self._length = max(1, round(sample_rate * seconds))
        self._rest: np.ndarray | None = None
        self._sums: list[np.ndarray] = []

    def update(self, energies: np.ndarray) -> None:
        if self._rest is not None:
            energies = np.concatenate([self._rest, energies], axis=1)
        channels, length = energies.shape
        whole = length // self._length
        used = energies[:, : whole * self._length].reshape(channels, whole, self._length)
        self._sums.append(used.mean(axis=2))
        self._rest = energies[:, whole * self._length :]

    def means(self, partial: bool) -> np.ndarray:
        """The means [C, windows]; with `partial`, also of the shorter window at the end."""
        parts = list(self._sums)
        if partial and self._rest is not None and self._rest.shape[1]:
            parts.append(self._rest.mean(axis=1, keepdims=True))
        return np.concatenate(parts, axis=1) if parts else np.zeros((1, 0))


def _lufs(energy: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return _OFFSET + 10 * np.log10(energy)
