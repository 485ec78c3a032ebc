"""K-weighting (ITU-R BS.1770-5, Annex 1): the two filters before loudness, as matrix products.

A recursive filter takes one sample after the other. Over a step of 32 samples it is a matrix all the same: samples and
the state before them go in, weighted samples and the state after them come out. So the steps of a block are one
product, and only their states, four numbers each, follow on one another; and those again are made of groups of steps.

The standard gives coefficients for 48 kHz; for every rate they come from the analogue filters behind them, with the
parameters that pyloudnorm takes for these (Steinmetz and Reiss, 2021) and the formulas of Bristow-Johnson's cookbook.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

STEP = 32
"""Samples in a step: longer ones have larger products, shorter ones more states."""

STATES = 4
"""Two for each of the two filters."""

GROUP = 16
"""Steps whose states are found by one product."""


class Weighting:
    """Weights a stream: `update` with blocks in order, then `finish`.

    Args:
        sample_rate: Hz.
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        matrix = _matrix(sample_rate)
        self._weight, self._carry = (part.astype(np.float32) for part in (matrix[:STEP, :STEP], matrix[STEP:, :STEP]))
        self._enter, self._group = matrix[:STEP, STEP:], _group_matrix(sample_rate)
        self._state = np.zeros((channels, STATES))
        self._rest = np.zeros((channels, 0), np.float32)

    def update(self, block: np.ndarray) -> np.ndarray:
        """float [C, n] → float32 [C, n'], the next weighted samples: those of whole steps, the others wait.

        States are float64, since the filter's memory of half a second would add up their rounding."""
        samples = np.concatenate([self._rest, block], axis=1, dtype=np.float32)
        count = samples.shape[1] // STEP
        self._rest = samples[:, count * STEP :]
        steps = samples[:, : count * STEP].reshape(len(block), count, STEP)
        weighted = steps @ self._weight
        weighted += self._states(steps.astype(np.float64) @ self._enter).astype(np.float32) @ self._carry
        return weighted.reshape(len(block), count * STEP)

    def finish(self) -> np.ndarray:
        """The samples that waited: float32 [C, n], n < 32."""
        count = self._rest.shape[1]
        return self.update(np.zeros((len(self._rest), STEP - count)))[:, :count]

    def _states(self, added: np.ndarray) -> np.ndarray:
        """The state before each step [C, steps, 4], from what each step alone adds to the state after it."""
        channels, count, _ = added.shape
        groups, width = count // GROUP + 1, GROUP * STATES
        padded = np.zeros((channels, groups * GROUP, STATES))
        padded[:, :count] = added
        grouped = padded.reshape(channels, groups, width)
        starts = _accumulated(self._state, grouped @ self._group[:width, width:], self._group[width:, width:])
        states = grouped @ self._group[:width, :width] + starts @ self._group[width:, :width]
        states = states.reshape(padded.shape)
        self._state = states[:, count]
        return states[:, :count]


def _accumulated(state: np.ndarray, added: np.ndarray, advance: np.ndarray) -> np.ndarray:
    """The state [C, 4] and those that follow on it, where each is the one before times `advance`, and what was added:
    [C, n, 4] → [C, n, 4], the last addition unused.

    Sums of 1, 2, 4 … additions are joined (Hillis and Steele, 1986), so that no loop goes over them."""
    states = np.concatenate([state[:, None], added[:, :-1]], axis=1)
    reach = 1
    while reach < states.shape[1]:
        states[:, reach:] += states[:, :-reach] @ advance
        advance, reach = advance @ advance, 2 * reach
    return states


@dataclass(frozen=True)
class _Biquad:
    """b[0] + b[1] / z + b[2] / z², divided by 1 + a[1] / z + a[2] / z²."""

    b: np.ndarray
    a: np.ndarray

    def run(self, samples: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Samples [rows, n] and states [rows, 2] → filtered samples and the states after them (direct form II,
        transposed), sample by sample."""
        filtered = np.empty_like(samples)
        first, second = states.T
        for place in range(samples.shape[1]):
            given = samples[:, place]
            filtered[:, place] = given * self.b[0] + first
            first = given * self.b[1] - filtered[:, place] * self.a[1] + second
            second = given * self.b[2] - filtered[:, place] * self.a[2]
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
def _matrix(sample_rate: int) -> np.ndarray:
    """[32 + 4, 32 + 4]: a row of samples and states times this is a row of weighted samples and next states."""
    rows = np.eye(STEP + STATES)
    samples, states = rows[:, :STEP], []
    filters = (_high_shelf(sample_rate, 4.0, 1500.0, math.sqrt(0.5)), _high_pass(sample_rate, 38.0, 0.5))
    for position, one in enumerate(filters):
        samples, after = one.run(samples, rows[:, STEP + 2 * position : STEP + 2 * position + 2])
        states.append(after)
    return np.concatenate([samples, *states], axis=1)


@lru_cache(maxsize=8)
def _group_matrix(sample_rate: int) -> np.ndarray:
    """[16 * 4 + 4, 16 * 4 + 4]: a row of what 16 steps add and the state before them, times this, is a row of the state
    before each of them and the one after all."""
    rows, advance, before = np.eye((GROUP + 1) * STATES), _matrix(sample_rate)[STEP:, STEP:], []
    state = rows[:, GROUP * STATES :]
    for step in range(GROUP):
        before.append(state)
        state = state @ advance + rows[:, step * STATES : (step + 1) * STATES]
    return np.concatenate([*before, state], axis=1)
