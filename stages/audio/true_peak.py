"""True peak (ITU-R BS.1770-5, Annex 2): the highest value of a recording at four times its rate.

Between two samples a band-limited signal cannot rise far above both: an interpolated value is the straight line between
them and a remainder that is filtered from second differences, and the sum of that filter's magnitudes bounds it. So
only the few chunks that could hold a higher value than is known already are brought to the higher rate, the most
promising first. In music that is a hundredth of them; in noise it is all.
"""

import numpy as np

OVERSAMPLING = 4

CHUNK = 512
"""Samples that are interpolated or passed over together."""

REACH = 100
"""Samples on either side that an interpolated value depends on, at soxr's high quality (its kernel has 96)."""

CURVATURE = 0.8
"""By how much an interpolated value exceeds the samples around it at most, in units of the largest second difference in
reach: 0.75 at half of the way between two samples, and a little for the kernel's ripple."""

AT_ONCE = 32
"""Chunks that are interpolated before the bounds of the others are looked at again."""


class TruePeak:
    """The true peak of a stream: `update` with blocks in order, then `result`."""

    def __init__(self, channels: int) -> None:
        self._peak = 0.0
        self._kept = np.zeros((channels, CHUNK), np.float32)

    def update(self, block: np.ndarray) -> None:
        """Take float32 [C, n]."""
        self._search(block, end=0)

    def result(self) -> float:
        """The highest magnitude of all channels; call it once, at the end."""
        waiting = self._kept.shape[1] - CHUNK
        self._search(np.zeros((len(self._kept), 3 * CHUNK), np.float32), end=waiting)
        return self._peak

    def _search(self, block: np.ndarray, end: int) -> None:
        """Look through the chunks whose neighbours are there; the last two chunks and what is over wait for more.

        Args:
            end: where the recording ends, in samples after the first chunk that is looked through; 0 if not in sight.
        """
        samples = np.concatenate([self._kept, block], axis=1, dtype=np.float32)
        count = samples.shape[1] // CHUNK
        if count < 3:
            self._kept = samples
            return
        self._kept = samples[:, (count - 2) * CHUNK :]
        levels = _highest(np.abs(samples[:, : count * CHUNK]))
        self._peak = max(self._peak, float(levels.max()))
        bounds = _bounds(samples, levels)
        windows = np.lib.stride_tricks.sliding_window_view(samples, CHUNK + 2 * REACH, axis=1)
        channels, chunks = np.nonzero(bounds > self._peak)
        order = np.argsort(-bounds[channels, chunks])
        while len(order):
            now, order = order[:AT_ONCE], order[AT_ONCE:]
            starts = (chunks[now] + 1) * CHUNK - REACH
            finer = _interpolate(windows[channels[now], starts])
            if end:
                places = chunks[now, None] * CHUNK + np.arange(OVERSAMPLING * CHUNK) / OVERSAMPLING
                finer[places >= end] = 0
            self._peak = max(self._peak, float(np.abs(finer).max()))
            order = order[bounds[channels[order], chunks[order]] > self._peak]


def _bounds(samples: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """What no interpolated value in a chunk exceeds: [C, N] and its chunks' highest magnitudes [C, chunks] → [C, chunks
    - 2], without the first chunk and the last."""
    whole = samples[:, : levels.shape[1] * CHUNK]
    slopes = whole[:, 1:] - whole[:, :-1]
    bends = np.zeros(whole.shape, np.float32)
    np.subtract(slopes[:, 1:], slopes[:, :-1], out=bends[:, 1:-1])
    curvature = _highest(np.abs(bends, out=bends))
    around = np.maximum(np.maximum(curvature[:, :-2], curvature[:, 1:-1]), curvature[:, 2:])
    following = np.abs(whole[:, 2 * CHUNK :: CHUNK])
    return np.maximum(levels[:, 1:-1], following) + CURVATURE * around


def _highest(magnitudes: np.ndarray) -> np.ndarray:
    """Of each chunk: [C, chunks * CHUNK] → [C, chunks]."""
    found: np.ndarray = magnitudes.reshape(len(magnitudes), -1, CHUNK).max(axis=2)
    return found


def _interpolate(windows: np.ndarray) -> np.ndarray:
    """float32 [windows, CHUNK + 2 * REACH] → [windows, 4 * CHUNK], the middle at four times the rate.

    They go through one after the other as one stream: what follows a window does not reach its middle."""
    import soxr

    finer = soxr.resample(windows.reshape(-1), 1, OVERSAMPLING, quality="HQ").reshape(len(windows), -1)
    return finer[:, OVERSAMPLING * REACH : OVERSAMPLING * (REACH + CHUNK)]
