"""Statistics of small samples: estimates of shares, means and distances between sets, with intervals.

The share of right answers has Wilson's score interval (E. B. Wilson, "Probable inference, the law of succession, and
statistical inference", JASA 22, 1927), which holds for samples of any size and never leaves 0 to 1. A mean of numbers
has a bootstrap interval (B. Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7, 1979).
Both are 95 % intervals.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

Vectors = Float[npt.NDArray[np.float64], "n d"]
"""A set of sounds, with one vector each."""

Z = 1.959963984540054
"""Standard normal deviate of a two-sided 95 % interval."""

RESAMPLES = 1000
"""Bootstrap samples of a mean, which give its interval to about a twentieth of its width."""

DISTANCE_RESAMPLES = 200
"""Bootstrap samples of a distance between sets, of which only the spread is used."""

SOUNDS_PER_DIMENSION = 4
"""Fewest sounds in a set for each dimension of its vectors: with fewer, its covariance is too uncertain to be
compared."""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int
    """Number of values that it was estimated from."""


def wilson_interval(successes: int, n: int) -> Estimate:
    """Estimate a share from `successes` of `n`, with Wilson's score interval.

    Raises:
        ValueError: n is below 1, or `successes` is not between 0 and n.
    """
    from scipy.stats import binomtest

    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"expected from 0 to n successes of at least 1, got {successes} of {n}")
    interval = binomtest(successes, n).proportion_ci(method="wilson")
    return Estimate(successes / n, float(interval.low), float(interval.high), n)


def mean_interval(values: Sequence[float]) -> Estimate:
    """Estimate a mean, with the percentile interval of a bootstrap. The same values in any order give the same
    interval.

    A single value says nothing about its spread: its interval is infinite.

    Raises:
        ValueError: there are no values, or some are not finite.
    """
    sample = np.sort(np.asarray(values, dtype=np.float64))
    if not len(sample) or not np.isfinite(sample).all():
        raise ValueError(f"expected finite values, at least one, got {list(values)[:5]}")
    if len(sample) == 1:
        return Estimate(float(sample[0]), -math.inf, math.inf, 1)
    draws = np.random.default_rng(0).integers(len(sample), size=(RESAMPLES, len(sample)))
    low, high = np.quantile(sample[draws].mean(axis=1), (0.025, 0.975))
    mean = float(sample.mean())
    return Estimate(mean, min(float(low), mean), max(float(high), mean), len(sample))


def least_sounds(dimensions: int) -> int:
    """Return the fewest sounds that a set must have for its Fréchet distance from another to be measured."""
    return SOUNDS_PER_DIMENSION * dimensions


def frechet_distance(first: Vectors, second: Vectors) -> float:
    """Compute the Fréchet distance of two Gaussians with the sets' means and covariances (D. Dowson and B. Landau, "The
    Fréchet distance between multivariate normal distributions", J. Multivariate Analysis 12, 1982): |m1 - m2|² +
    tr(C1 + C2 - 2 (C1 C2)^½). It is 0 or more, in squared units of the vectors.

    Raises:
        ValueError: a set has fewer sounds than `least_sounds`, or the vectors of the two sets differ in length.
    """
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"expected vectors of one length, got {first.shape[1]} and {second.shape[1]}")
    least = least_sounds(first.shape[1])
    if min(len(first), len(second)) < least:
        raise ValueError(f"expected at least {least} sounds in each set, got {len(first)} and {len(second)}")
    between = first.mean(axis=0) - second.mean(axis=0)
    of_first, of_second = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = _square_root(np.atleast_2d(of_first))
    # The eigenvalues of the product equal those of a symmetric matrix, so no complex root is needed.
    mixed = np.linalg.eigvalsh(root @ np.atleast_2d(of_second) @ root)
    traces = float(np.trace(np.atleast_2d(of_first)) + np.trace(np.atleast_2d(of_second)))
    return max(0.0, float(between @ between) + traces - 2 * float(np.sqrt(mixed.clip(min=0)).sum()))


def _square_root(matrix: Float[npt.NDArray[np.float64], "d d"]) -> Float[npt.NDArray[np.float64], "d d"]:
    values, vectors = np.linalg.eigh(matrix)
    root: Float[npt.NDArray[np.float64], "d d"] = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return root


def frechet_interval(first: Vectors, second: Vectors) -> Estimate:
    """Estimate the Fréchet distance of two sets, with an interval from the spread of a bootstrap over their sounds.

    A resampled set repeats sounds and is therefore further from any other set. So only the spread of the bootstrap is
    used, around the distance of the sets themselves. That distance is too large for small sets, by about d²/n for sets
    of the same distribution; compare it with the distance between two halves of one set. `n` is the size of the smaller
    set.

    Raises:
        ValueError: as in `frechet_distance`.
    """
    distance = frechet_distance(first, second)
    random = np.random.default_rng(0)
    resampled = [
        frechet_distance(*(sounds[random.integers(len(sounds), size=len(sounds))] for sounds in (first, second)))
        for _ in range(DISTANCE_RESAMPLES)
    ]
    half = Z * float(np.std(resampled, ddof=1))
    return Estimate(distance, max(0.0, distance - half), distance + half, min(len(first), len(second)))
