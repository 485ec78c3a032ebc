"""Bandwidth: where the spectrum of a recording ends, in one pass over blocks of any length.

Every lossy encoder cuts off the top of the spectrum: LAME at 11 kHz for 64 kbit/s, at 16 to 17 kHz for 128, at 19 kHz
for 192 and at 20 kHz for 320. So does resampling from a lower sample rate. A recording that was decoded and stored
again as FLAC still shows this cut: above it there is only the noise of rounding to 16 bits.

So the power of short windows at regular intervals is averaged. The spectrum ends with the highest band whose level is
above the noise of rounding. If the peaks of a lossy file were clipped on decoding, they spread over the whole spectrum
and would hide the cut in the loudest music. So windows with a clipped sample are left out if there are others.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from stages.audio.clipping import FULL_SCALE
from stages.audio.samples import Samples

WINDOW = 2048
"""Samples in a window: 46 ms at 44.1 kHz."""

STRIDE = 2**15
"""Samples from the start of one window to the next: 0.7 s at 44.1 kHz."""

BINS = 4
"""Bins in a band: 86 Hz at 44.1 kHz, a quarter of the width of an encoder's slope."""

FLOOR_DECIBELS = -87.0
"""Level of white noise, dBFS, below which a band is empty: rounding to 16 bits gives -101, with dither -96."""

RANGE_DECIBELS = 70.0
"""Decibels below the mean of `MIDDLE` at which a band is empty: clipping and leakage leave this much in loud music."""

MIDDLE = (500.0, 4000.0)
"""The range, Hz, in which music has most of its power."""

Power = npt.NDArray[np.float64]


class BandwidthMeter:
    """Measures a stream: call `update` with blocks in order, then `result`.

    Args:
        sample_rate: Hz.
        channels: number of channels; successive windows are taken from successive channels.
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        self._sample_rate, self._channels = sample_rate, channels
        self._seen = self._next = 0
        self._partial: Samples | None = None
        """Samples so far of a window that continues in the next block; None if there is no such window."""
        self._power = np.zeros((2, WINDOW // 2 + 1))
        """Summed power of the windows without a clipped sample, and of those with one."""
        self._counts = np.zeros(2, np.int64)

    def update(self, block: Samples) -> None:
        windows = []
        length = block.shape[1]
        while self._next < self._seen + length:
            start = max(self._next - self._seen, 0)
            partial_length = 0 if self._partial is None else len(self._partial)
            part = block[self._next // STRIDE % self._channels, start : start + WINDOW - partial_length]
            window = part if self._partial is None else np.concatenate([self._partial, part])
            if len(window) < WINDOW:
                self._partial = window.copy()
                break
            windows.append(window)
            self._partial = None
            self._next += STRIDE
        self._seen += length
        if windows:
            self._add(np.stack(windows))

    def _add(self, windows: Samples) -> None:
        spectra = np.fft.rfft(windows * _hann(), axis=1)
        power = spectra.real**2 + spectra.imag**2
        clipped = np.abs(windows).max(axis=1) >= FULL_SCALE
        for row, chosen in enumerate((~clipped, clipped)):
            self._power[row] += power[chosen].sum(axis=0)
            self._counts[row] += np.count_nonzero(chosen)

    def result(self) -> float | None:
        """Return the frequency in Hz at which the spectrum ends; None if nothing is above the floor, or the stream is
        shorter than a window."""
        row = 0 if self._counts[0] else 1
        if not self._counts[row]:
            return None
        density: Power = self._power[row] / self._counts[row] / np.square(_hann(), dtype=np.float64).sum()
        levels = density[: WINDOW // 2].reshape(-1, BINS).mean(axis=1)
        width = BINS * self._sample_rate / WINDOW
        starts = np.arange(len(levels)) * width
        middle = levels[(starts >= MIDDLE[0]) & (starts < MIDDLE[1])].mean()
        above = np.flatnonzero(levels > max(10 ** (FLOOR_DECIBELS / 10), middle * 10 ** (-RANGE_DECIBELS / 10)))
        return float((above[-1] + 1) * width) if len(above) else None


@lru_cache(maxsize=1)
def _hann() -> Samples:
    """Return the periodic Hann window."""
    return np.hanning(WINDOW + 1)[:WINDOW].astype(np.float32)
