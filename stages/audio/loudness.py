"""Measuring how loud a recording is, and how much of it is silent or clipped, in one pass over blocks of any length;
and bringing a clip to a loudness.

Loudness is ITU-R BS.1770's integrated loudness: K-weighted, 400 ms blocks at 75 % overlap, gated absolutely at -70 LUFS
and relatively at -10 LU. pyloudnorm gives the same values but needs all samples at once, which takes too much memory
for a four-hour mix.

K-weighting (BS.1770-5, Annex 1) is two recursive filters, which process one sample after the other. But over a run of
32 samples the filters are a matrix: it maps the samples and the state before them to the weighted samples and the state
after them. So all runs of a block are weighted by one product. Only the states, four numbers for each run, depend on
one another, and these are computed in groups of runs.

The standard gives coefficients for 48 kHz. Here the coefficients for every rate come from the analogue filters behind
them, with pyloudnorm's parameters (Steinmetz and Reiss, 2021) and the formulas of Bristow-Johnson's cookbook. (scipy's
`sosfilt` takes twice as long, and importing it takes half a second in each process that reads; with it, ingest takes
1.6 times as long in all.)
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from stages.audio.clipping import ClippingMeter
from stages.audio.locations import AudioError
from stages.audio.samples import Samples
from stages.audio.true_peak import PART, TruePeakMeter, decibels, limit_true_peak

SILENCE_DBFS = -60.0
"""RMS, dBFS, below which every channel of a window must be for the window to count as silent."""

SILENCE_WINDOW = 0.05
"""Seconds in a window for measuring silence; windows do not overlap, and the last may be shorter."""

RUN = 32
"""Samples weighted by one product: longer runs make the products larger, shorter runs need more states."""

STATES = 4
"""Numbers in the state of K-weighting: two for each of its two filters."""

GROUP = 16
"""Runs whose states are computed by one product."""

_GATE_LUFS, _RELATIVE_GATE, _OFFSET = -70.0, -10.0, -0.691

Matrix = npt.NDArray[np.float64]

CLOSE = 0.1
"""Loudness units by which a limited clip may miss its target."""

MORE_GAIN = 6.0
"""Most gain, dB, added to make up for what the limiter took from a clip. Beyond it nearly the whole sound is limited,
and more gain squashes it without making it much louder (eight clips and twelve excerpts of recordings, at a target of
-9 LUFS)."""

MADE_UP = 1.5
"""Gain, dB, added for each loudness unit that the limiter took. It is more than 1 because the limiter takes a third to
a half of the added gain too."""

PASSES = 8
"""Most passes of the limiter over a clip."""

LISTENING_LOUDNESS, LISTENING_PEAK = -16.0, -1.0
"""LUFS and dBTP of sounds that are stored to be heard beside clips. They equal the defaults of `decode`, so that no
sound seems better because it is louder."""


@dataclass(frozen=True)
class AudioMeasures:
    """What was measured of a recording."""

    loudness: float | None
    """Integrated loudness, LUFS; None if the recording is shorter than 0.4 s, or nothing in it is above the gate of -70
    LUFS."""
    true_peak: float | None
    """True peak, dBTP; None if every sample is zero."""
    silence: float
    """Share of windows that are silent, 0 to 1."""
    clipping: float
    """Share of samples at or beyond full scale, 0 to 1."""


def normalise_loudness(
    samples: Samples, sample_rate: int, target_lufs: float, peak_dbtp: float
) -> tuple[Samples, float]:
    """Bring samples [C, N] to `target_lufs` (BS.1770) with a true peak of at most `peak_dbtp`, by a gain and a limiter.

    The limiter makes the clip quieter. More gain before it, at most `MORE_GAIN`, makes up for that until the loudness
    is within `CLOSE` of the target; a clip with few high peaks stays below the target. Silence, and sound shorter than
    0.4 s, have no loudness and get no gain.

    Returns:
        the samples, float32 [C, N], and the gain in dB that was applied before limiting.

    Raises:
        ValueError: the samples are not finite, or the limit is above 0 dBTP.
    """
    if not np.isfinite(samples).all():
        raise ValueError("expected finite samples, got NaN or infinity")
    if peak_dbtp > 0:
        raise ValueError(f"expected a true-peak limit of at most 0 dBTP, got {peak_dbtp:g}")
    samples = samples.astype(np.float32)
    loudness = measure_audio(samples, sample_rate).loudness
    if loudness is None:
        return limit_true_peak(samples, sample_rate, peak_dbtp), 0.0
    gain = target_lufs - loudness
    most = gain + MORE_GAIN
    for _ in range(PASSES):
        louder = samples * np.float32(10 ** (gain / 20))
        levelled = limit_true_peak(louder, sample_rate, peak_dbtp)
        reached = None if levelled is louder else measure_audio(levelled, sample_rate).loudness
        missing = 0.0 if reached is None else target_lufs - reached
        given = gain
        gain = min(most, gain + MADE_UP * missing)
        if abs(missing) < CLOSE or gain == given:
            break
    return levelled, given


def measure_audio(samples: Samples, sample_rate: int) -> AudioMeasures:
    """Measure a whole recording [C, N]."""
    meter = LoudnessMeter(sample_rate, samples.shape[0])
    meter.update(samples)
    return meter.result()


class LoudnessMeter:
    """Measures a stream: call `update` with blocks [C, n] in order, then `result`. A sample that is not finite raises
    `AudioError`.

    Args:
        sample_rate: Hz.
        channels: number of channels, in WAV's order. Surround channels count 1.41 times; the low-frequency channel of
            5.1 and 7.1 does not count.
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        weights = {5: (1, 1, 1, 1.41, 1.41), 6: (1, 1, 1, 0, 1.41, 1.41), 8: (1, 1, 1, 0, *[1.41] * 4)}
        self._weights = np.array(weights.get(channels, [1.0] * channels))
        self._weighting, self._true_peak = KWeighting(sample_rate, channels), TruePeakMeter(channels)
        self._hops = _MeanSquares(sample_rate, 0.1, channels)
        self._windows = _MeanSquares(sample_rate, SILENCE_WINDOW, channels)
        self.clipping = ClippingMeter(channels)
        """The meter of clipped samples and of the highest sample, which others may read."""
        self._values = 0

    def update(self, block: Samples) -> None:
        for start in range(0, block.shape[1], PART):
            part = block[:, start : start + PART]
            self._values += part.size
            self.clipping.update(part)
            if not math.isfinite(self.clipping.peak):
                raise AudioError("not finite", "expected finite samples, got NaN or infinity")
            self._true_peak.update(part)
            self._windows.update(part)
            self._hops.update(self._weighting.update(part))

    def result(self) -> AudioMeasures:
        """Return the measures of all blocks; call it once, at the end."""
        if self._values == 0:
            return AudioMeasures(None, None, 1.0, 0.0)
        self._hops.update(self._weighting.finish())
        means, peak = self._windows.means(partial=True), self._true_peak.result()
        silent = (means.max(axis=0) < 10 ** (SILENCE_DBFS / 10)).mean()
        return AudioMeasures(self._loudness(), decibels(peak), float(silent), self.clipping.share)

    def _loudness(self) -> float | None:
        """Return the gated loudness, LUFS; None if it is shorter than a block or nothing is above the absolute gate."""
        hops = self._weights @ self._hops.means(partial=False)
        if len(hops) < 4:
            return None
        blocks = np.convolve(hops, np.full(4, 0.25), mode="valid")
        loud = blocks[_lufs(blocks) > _GATE_LUFS]
        if len(loud) == 0:
            return None
        above = loud[_lufs(loud) > _lufs(loud.mean()) + _RELATIVE_GATE]
        return float(_lufs(above.mean()))


class _MeanSquares:
    """Mean squares of consecutive windows of a stream [C, n], whatever the lengths of its blocks."""

    def __init__(self, sample_rate: int, seconds: float, channels: int) -> None:
        self._length = max(1, round(sample_rate * seconds))
        self._rest: Samples = np.zeros((channels, 0), np.float32)
        self._means: list[Samples] = []

    def update(self, samples: Samples) -> None:
        if self._rest.shape[1]:  # copies only the window that the last block began
            missing = self._length - self._rest.shape[1]
            self._rest = np.concatenate([self._rest, samples[:, :missing]], axis=1)
            samples = samples[:, missing:]
            if self._rest.shape[1] < self._length:
                return
            self._means.append(_mean_squares(self._rest[:, None]))
        channels, length = samples.shape
        count = length // self._length
        whole = samples[:, : count * self._length]
        self._means.append(_mean_squares(whole.reshape(channels, count, self._length)))
        self._rest = samples[:, count * self._length :].copy()

    def means(self, partial: bool) -> Samples:
        """Return the means [C, windows]; with `partial`, also the mean of the shorter window at the end."""
        last = [_mean_squares(self._rest[:, None])] if partial and self._rest.shape[1] else []
        return np.concatenate([*self._means, *last], axis=1)


def _mean_squares(windows: Samples) -> Samples:
    """Return the mean squares of windows: [C, windows, n] → [C, windows]."""
    return (windows[:, :, None] @ windows[:, :, :, None])[:, :, 0, 0] / windows.shape[2]


def _lufs(energy: npt.ArrayLike) -> Matrix:
    with np.errstate(divide="ignore"):
        return _OFFSET + 10 * np.log10(energy)


# -- K-weighting -------------------------------------------------------------------------------------------------------


class KWeighting:
    """Weights a stream: call `update` with blocks [C, n] in order, then `finish`.

    Args:
        sample_rate: Hz.
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        matrix = _run_matrix(sample_rate)
        self._weight, self._carry = (part.astype(np.float32) for part in (matrix[:RUN, :RUN], matrix[RUN:, :RUN]))
        self._enter, self._group = matrix[:RUN, RUN:], _group_matrix(sample_rate)
        self._state = np.zeros((channels, STATES))
        self._rest: Samples = np.zeros((channels, 0), np.float32)

    def update(self, block: Samples) -> Samples:
        """Return the next weighted samples [C, n'], whole runs of them; the samples after the last whole run wait.

        States are float64: the filters ring for half a second, and float32 would accumulate rounding errors."""
        samples = np.concatenate([self._rest, block], axis=1, dtype=np.float32)
        count = samples.shape[1] // RUN
        self._rest = samples[:, count * RUN :]
        runs = samples[:, : count * RUN].reshape(len(block), count, RUN)
        weighted: Samples = runs @ self._weight
        weighted += self._states(runs.astype(np.float64) @ self._enter).astype(np.float32) @ self._carry
        return weighted.reshape(len(block), count * RUN)

    def finish(self) -> Samples:
        """Return the weighted samples that waited: [C, n], n < 32."""
        count = self._rest.shape[1]
        return self.update(np.zeros((len(self._rest), RUN - count), np.float32))[:, :count]

    def _states(self, added: Matrix) -> Matrix:
        """Return the state before each run [C, runs, 4], from what each run by itself adds to the state after it."""
        channels, count, _ = added.shape
        groups, width = count // GROUP + 1, GROUP * STATES
        padded = np.zeros((channels, groups * GROUP, STATES))
        padded[:, :count] = added
        grouped = padded.reshape(channels, groups, width)
        within: Matrix = self._group[:width, :width]
        carried: Matrix = self._group[width:, :width]
        starts = _scan(self._state, grouped @ self._group[:width, width:], self._group[width:, width:])
        states = (grouped @ within + starts @ carried).reshape(padded.shape)
        self._state = states[:, count]
        return states[:, :count]


def _scan(state: Matrix, added: Matrix, advance: Matrix) -> Matrix:
    """Return `state` [C, 4] and the states after it: [C, n, 4]. Each state is the one before it times `advance`, plus
    the next element of `added` [C, n, 4], whose last is unused.

    Sums over 1, 2, 4 … elements are combined (Hillis and Steele, 1986), so no loop goes over single elements."""
    states: Matrix = np.concatenate([state[:, None], added[:, :-1]], axis=1)
    reach = 1
    while reach < states.shape[1]:
        states[:, reach:] += states[:, :-reach] @ advance
        advance, reach = advance @ advance, 2 * reach
    return states


@dataclass(frozen=True)
class _Biquad:
    """A filter of order two: (b[0] + b[1] / z + b[2] / z²) / (1 + a[1] / z + a[2] / z²)."""

    b: Matrix
    a: Matrix

    def filter(self, samples: Matrix, states: Matrix) -> tuple[Matrix, Matrix]:
        """Filter samples [rows, n] one by one, starting from states [rows, 2], in the transposed direct form II.

        Returns:
            the filtered samples and the states after them.
        """
        filtered = np.empty_like(samples)
        first, second = states.T
        for index in range(samples.shape[1]):
            sample = samples[:, index]
            filtered[:, index] = sample * self.b[0] + first
            first = sample * self.b[1] - filtered[:, index] * self.a[1] + second
            second = sample * self.b[2] - filtered[:, index] * self.a[2]
        return filtered, np.stack([first, second], axis=1)


def _high_shelf(sample_rate: int, decibels: float, hertz: float, quality: float) -> _Biquad:
    amplitude = 10 ** (decibels / 40)
    turn = 2 * math.pi * hertz / sample_rate
    cosine, width = math.cos(turn), math.sqrt(amplitude) * math.sin(turn) / quality
    more, less = amplitude + 1, amplitude - 1
    b = np.array([more + less * cosine + width, -2 * (less + more * cosine), more + less * cosine - width]) * amplitude
    a = np.array([more - less * cosine + width, 2 * (less - more * cosine), more - less * cosine - width])
    return _Biquad(b / a[0], a / a[0])


def _high_pass(sample_rate: int, hertz: float, quality: float) -> _Biquad:
    turn = 2 * math.pi * hertz / sample_rate
    cosine, width = math.cos(turn), math.sin(turn) / (2 * quality)
    b, a = np.array([0.5, -1.0, 0.5]) * (1 + cosine), np.array([1 + width, -2 * cosine, 1 - width])
    return _Biquad(b / a[0], a / a[0])


@lru_cache(maxsize=8)
def _run_matrix(sample_rate: int) -> Matrix:
    """Return a matrix [32 + 4, 32 + 4] that maps a row of samples and states to weighted samples and next states."""
    rows = np.eye(RUN + STATES)
    samples, states = rows[:, :RUN], []
    filters = (_high_shelf(sample_rate, 4.0, 1500.0, math.sqrt(0.5)), _high_pass(sample_rate, 38.0, 0.5))
    for position, biquad in enumerate(filters):
        samples, after = biquad.filter(samples, rows[:, RUN + 2 * position : RUN + 2 * position + 2])
        states.append(after)
    return np.concatenate([samples, *states], axis=1)


@lru_cache(maxsize=8)
def _group_matrix(sample_rate: int) -> Matrix:
    """Return a matrix [16 * 4 + 4, 16 * 4 + 4]. It maps a row, what each of 16 runs adds and the state before them all,
    to the state before each run and the state after the last."""
    rows, advance, before = np.eye((GROUP + 1) * STATES), _run_matrix(sample_rate)[RUN:, RUN:], []
    state = rows[:, GROUP * STATES :]
    for run in range(GROUP):
        before.append(state)
        state = state @ advance + rows[:, run * STATES : (run + 1) * STATES]
    return np.concatenate([*before, state], axis=1)
