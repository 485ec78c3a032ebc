"""Quality of a recording apart from its loudness, by which training data may be chosen. It is measured in one pass over
the same blocks as loudness; nothing is rejected for it here.
"""

import math
from dataclasses import dataclass

import numpy as np

from stages.audio.bandwidth import BandwidthMeter
from stages.audio.clipping import ClippingMeter
from stages.audio.samples import Samples
from stages.audio.true_peak import PART, decibels

SAME_DECIBELS = -60.0
"""Level of the difference of two channels, dB relative to their sum, up to which they hold the same sound."""


@dataclass(frozen=True)
class AudioQuality:
    """Measures of a recording's quality, by the names of columns of `tracks`."""

    peak: float | None
    """Highest sample, dBFS; None if every sample is zero."""
    clipping_runs: float
    """Share of samples in runs of at least 3 at or beyond full scale, 0 to 1."""
    dc: float
    """Absolute mean of the channel whose mean is furthest from zero, as a share of full scale, 0 or more."""
    zeros: float
    """Share of samples that are exactly zero, 0 to 1."""
    bandwidth: float | None
    """Where the spectrum ends, Hz; None if nothing is above the noise floor, or the recording is too short."""
    dual_mono: bool
    """Whether the two channels of a stereo recording hold the same sound."""
    phase: float | None
    """Correlation of the first two channels, -1 to 1; None if there is one channel, or one of the two is silent."""


class QualityMeter:
    """Measures a stream: call `update` with blocks [C, n] in order, then `result`.

    Args:
        sample_rate: Hz.
        clipping: a meter that is updated with the same blocks by its owner.
    """

    def __init__(self, sample_rate: int, channels: int, clipping: ClippingMeter) -> None:
        self._clipping, self._bandwidth = clipping, BandwidthMeter(sample_rate, channels)
        self._values = self._zeros = 0
        self._sums = np.zeros(channels)
        self._pair = channels >= 2
        self._stereo = channels == 2
        self._left = self._right = self._product = self._difference = 0.0

    def update(self, block: Samples) -> None:
        for start in range(0, block.shape[1], PART):
            part = block[:, start : start + PART]
            self._values += part.size
            self._zeros += int(np.count_nonzero(part == 0))
            self._sums += [np.dot(row, _ONES[: len(row)]) for row in part]
            self._bandwidth.update(part)
            if self._pair:
                self._update_pair(part[0], part[1])

    def _update_pair(self, first: Samples, second: Samples) -> None:
        """Add up the powers, the product and the power of the difference of the first two channels."""
        left, right, product = float(first @ first), float(second @ second), float(first @ second)
        difference = left + right - 2 * product
        if difference < 0.01 * (left + right):  # the difference of the sums would lose precision
            between = first - second
            difference = float(between @ between)
        self._left, self._right = self._left + left, self._right + right
        self._product, self._difference = self._product + product, self._difference + difference

    def result(self) -> AudioQuality:
        """Return the measures of all blocks; call it once, at the end."""
        length = self._values / len(self._sums)
        energy = math.sqrt(self._left * self._right)
        summed = self._left + self._right + 2 * self._product
        return AudioQuality(
            peak=decibels(self._clipping.peak),
            clipping_runs=self._clipping.share_in_runs,
            dc=float(np.abs(self._sums).max() / length) if length else 0.0,
            zeros=self._zeros / self._values if self._values else 0.0,
            bandwidth=self._bandwidth.result(),
            dual_mono=self._stereo and summed > 0 and self._difference <= summed * 10 ** (SAME_DECIBELS / 10),
            phase=max(-1.0, min(self._product / energy, 1.0)) if energy > 0 else None,
        )


_ONES = np.ones(PART, np.float32)
