"""Clipping: samples at full scale, those of them in runs, and the highest sample, in one pass over blocks of any
length.

One or two samples at full scale are just a loud sound. Three or more in a row are a flat top: the true peak was lost.
"""

import numpy as np
import numpy.typing as npt

from stages.audio.samples import Samples

FULL_SCALE = 32_767 / 32_768
"""Magnitude from which a sample counts as clipped: 16-bit full scale."""

SHORTEST_RUN = 3
"""Fewest consecutive samples of a channel at full scale that count as a flat top."""


class ClippingMeter:
    """Measures a stream: call `update` with blocks [C, n] in order; the results may be read at any time."""

    def __init__(self, channels: int) -> None:
        self.peak = 0.0
        """Highest magnitude of a sample so far; NaN after a sample that is NaN."""
        self._values = self._clipped = self._in_runs = 0
        self._open = [0] * channels
        """For each channel, the length of the run that reached the end of the last block."""

    @property
    def share(self) -> float:
        """Share of samples at or beyond full scale, 0 to 1."""
        return self._clipped / self._values if self._values else 0.0

    @property
    def share_in_runs(self) -> float:
        """Share of samples in runs of at least 3 at or beyond full scale, 0 to 1."""
        in_runs = self._in_runs + sum(_long_enough(length) for length in self._open)
        return in_runs / self._values if self._values else 0.0

    def update(self, block: Samples) -> None:
        if block.shape[1] == 0:
            return
        self._values += block.size
        peak = max(float(block.max()), -float(block.min()))
        if not peak <= self.peak:  # also true for NaN, which is kept so that the caller sees it
            self.peak = peak
        if peak < FULL_SCALE and not any(self._open):
            return
        flags = (block >= FULL_SCALE) | (block <= -FULL_SCALE)
        self._clipped += int(np.count_nonzero(flags))
        for channel, row in enumerate(flags):
            self._update_runs(channel, np.flatnonzero(row), len(row))

    def _update_runs(self, channel: int, positions: npt.NDArray[np.intp], length: int) -> None:
        """Count a channel's runs in a block.

        Args:
            positions: positions of the channel's clipped samples in the block.
            length: samples in the block; a run that reaches its end may continue in the next block.
        """
        last = np.append(np.flatnonzero(np.diff(positions) != 1), len(positions) - 1)
        lengths = np.diff(last, prepend=-1) if len(positions) else np.zeros(0, np.intp)
        if len(positions) and positions[0] == 0:
            lengths[0] += self._open[channel]
        else:
            self._in_runs += _long_enough(self._open[channel])
        self._open[channel] = 0
        if len(positions) and positions[-1] == length - 1:
            self._open[channel], lengths = int(lengths[-1]), lengths[:-1]
        self._in_runs += int(lengths[lengths >= SHORTEST_RUN].sum())


def _long_enough(run: int) -> int:
    """Return how many samples of a run count: all of them, or 0 if the run is too short."""
    return run if run >= SHORTEST_RUN else 0
