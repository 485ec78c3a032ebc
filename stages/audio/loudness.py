"""How loud a recording is, and how much of it is silent or clipped, in one pass over blocks of any length.

Loudness is ITU-R BS.1770's integrated loudness: K-weighted, 400 ms blocks at 75 % overlap, gated absolutely at -70 LUFS
and relatively at -10 LU. True peak is its Annex 2: the highest value at four times the rate. pyloudnorm, which agrees
with it, wants all samples at once, which a four-hour mix does not afford.
"""

import math
from dataclasses import dataclass

import numpy as np

from stages.audio.true_peak import TruePeak
from stages.audio.weighting import Weighting

SILENCE_DBFS = -60.0
"""A window whose every channel has an RMS below this is silent."""

SILENCE_WINDOW = 0.05
"""Seconds of such a window; windows do not overlap, and the last may be shorter."""

FULL_SCALE = 32_767 / 32_768
"""A sample at or beyond 16-bit full scale counts as clipped."""

PART = 2**17
"""Samples a channel that are measured together: arrays of a megabyte, small beside a whole recording."""

_GATE_LUFS, _RELATIVE_GATE, _OFFSET = -70.0, -10.0, -0.691


@dataclass(frozen=True)
class AudioMeasures:
    """What was measured of a recording."""

    loudness: float | None
    """Integrated loudness, LUFS; None under 0.4 s, or where nothing is above the gate of -70 LUFS."""
    true_peak: float | None
    """dBTP; None where every sample is zero."""
    silence: float
    """Share of windows that are silent, 0 to 1."""
    clipping: float
    """Share of samples at or beyond full scale, 0 to 1."""


def measure_audio(samples: np.ndarray, sample_rate: int) -> AudioMeasures:
    """The measures of float samples [C, N]."""
    meter = LoudnessMeter(sample_rate, samples.shape[0])
    meter.update(samples)
    return meter.result()


class LoudnessMeter:
    """Measures a stream: `update` with blocks [C, n] in order, then `result`.

    Args:
        sample_rate: Hz.
        channels: their order is WAV's. Surround channels weigh 1.41; the low-frequency one of 5.1 and 7.1 nothing.
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        weights = {5: (1, 1, 1, 1.41, 1.41), 6: (1, 1, 1, 0, 1.41, 1.41), 8: (1, 1, 1, 0, *[1.41] * 4)}
        self._weights = np.array(weights.get(channels, [1.0] * channels))
        self._weighting, self._true_peak = Weighting(sample_rate, channels), TruePeak(channels)
        self._hops = _Energies(sample_rate, 0.1, channels)
        self._windows = _Energies(sample_rate, SILENCE_WINDOW, channels)
        self._clipped, self._values = 0, 0

    def update(self, block: np.ndarray) -> None:
        for start in range(0, block.shape[1], PART):
            self._take(block[:, start : start + PART])

    def result(self) -> AudioMeasures:
        """The measures of all that came; call it once, at the end."""
        if self._values == 0:
            return AudioMeasures(None, None, 1.0, 0.0)
        self._hops.update(self._weighting.finish())
        means, peak = self._windows.means(partial=True), self._true_peak.result()
        silent = (means.max(axis=0) < 10 ** (SILENCE_DBFS / 10)).mean()
        decibels = 20 * math.log10(peak) if peak > 0 else None
        return AudioMeasures(self._loudness(), decibels, float(silent), self._clipped / self._values)

    def _take(self, part: np.ndarray) -> None:
        self._values += part.size
        self._clipped += int(np.count_nonzero((part >= FULL_SCALE) | (part <= -FULL_SCALE)))
        self._true_peak.update(part)
        self._windows.update(part)
        self._hops.update(self._weighting.update(part))

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


class _Energies:
    """Mean squares of consecutive windows of a stream [C, n], whatever the lengths of its blocks."""

    def __init__(self, sample_rate: int, seconds: float, channels: int) -> None:
        self._length = max(1, round(sample_rate * seconds))
        self._rest = np.zeros((channels, 0), np.float32)
        self._means: list[np.ndarray] = []

    def update(self, samples: np.ndarray) -> None:
        samples = np.concatenate([self._rest, samples], axis=1)
        channels, length = samples.shape
        whole = length // self._length
        self._means.append(_mean_squares(samples[:, : whole * self._length].reshape(channels, whole, self._length)))
        self._rest = samples[:, whole * self._length :]

    def means(self, partial: bool) -> np.ndarray:
        """The means [C, windows]; with `partial`, also of the shorter window at the end."""
        last = [_mean_squares(self._rest[:, None])] if partial and self._rest.shape[1] else []
        return np.concatenate([*self._means, *last], axis=1)


def _mean_squares(windows: np.ndarray) -> np.ndarray:
    """[C, windows, n] → [C, windows]."""
    return (windows[:, :, None] @ windows[:, :, :, None])[:, :, 0, 0] / windows.shape[2]


def _lufs(energy: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return _OFFSET + 10 * np.log10(energy)
