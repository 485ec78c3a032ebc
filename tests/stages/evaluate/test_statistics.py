"""Intervals and distances: known values, and properties of any sample."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.evaluate.statistics import (
    frechet_distance,
    frechet_interval,
    least_sounds,
    mean_interval,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # By hand: (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n).
        (0, 10, 0.0, 0.27753),
        (10, 10, 0.72247, 1.0),
        (5, 10, 0.23659, 0.76341),
        (41, 100, 0.31867, 0.50799),
        (1, 1, 0.20654, 1.0),
    ],
)
def test_wilsons_interval_has_its_known_values(successes: int, n: int, low: float, high: float) -> None:
    interval = wilson_interval(successes, n)
    assert interval.value == successes / n
    assert (interval.low, interval.high) == (pytest.approx(low, abs=1e-5), pytest.approx(high, abs=1e-5))


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_interval_contains_the_share_stays_within_0_and_1_and_narrows(pair: tuple[int, int]) -> None:
    successes, n = pair
    interval, mirrored = wilson_interval(successes, n), wilson_interval(n - successes, n)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    assert interval.low == pytest.approx(1 - mirrored.high)
    assert wilson_interval(4 * successes, 4 * n).high - wilson_interval(4 * successes, 4 * n).low < (
        interval.high - interval.low
    )


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 4)])
def test_impossible_counts_of_right_answers_are_refused(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="expected from 0 to n successes"):
        wilson_interval(successes, n)


def test_the_interval_of_a_mean_is_near_the_normal_one_and_ignores_the_order() -> None:
    values = np.random.default_rng(3).normal(5.0, 2.0, size=400)
    interval = mean_interval(list(values))
    half = 1.96 * values.std(ddof=1) / math.sqrt(400)
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert mean_interval(list(values[::-1])) == interval


def test_one_value_has_no_bounds_and_none_or_nan_is_refused() -> None:
    alone = mean_interval([0.5])
    assert (alone.value, alone.low, alone.high, alone.n) == (0.5, -math.inf, math.inf, 1)
    for bad in ([], [0.1, math.nan]):
        with pytest.raises(ValueError, match="expected finite values"):
            mean_interval(bad)


def gaussian(n: int, shift: float = 0.0, seed: int = 0, dimensions: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1.0, size=(n, dimensions))


def test_the_frechet_distance_in_one_dimension_equals_its_closed_form() -> None:
    first, second = gaussian(50, dimensions=1), 3.0 * gaussian(60, seed=1, dimensions=1) + 2.0
    expected = (first.mean() - second.mean()) ** 2 + (first.std(ddof=1) - second.std(ddof=1)) ** 2
    assert frechet_distance(first, second) == pytest.approx(expected)


def test_the_distance_of_a_set_to_itself_is_zero_and_grows_with_the_shift() -> None:
    own = gaussian(200)
    assert frechet_distance(own, own) == pytest.approx(0.0, abs=1e-9)
    distances = [frechet_distance(own, gaussian(200, shift, seed=1)) for shift in (0.0, 0.5, 1.0, 2.0)]
    assert distances == sorted(distances)
    assert distances[0] < 0.1 < distances[1]
    assert distances[3] == pytest.approx(4 * 2.0**2, rel=0.15)
    assert frechet_distance(own, gaussian(200, 1.0, 1)) == pytest.approx(frechet_distance(gaussian(200, 1.0, 1), own))


def test_the_distance_is_refused_below_a_stated_number_of_sounds() -> None:
    least = least_sounds(4)
    assert frechet_distance(gaussian(least), gaussian(least, seed=1)) >= 0
    with pytest.raises(ValueError, match=f"expected at least {least} sounds in each set, got {least - 1} and {least}"):
        frechet_distance(gaussian(least - 1), gaussian(least, seed=1))
    with pytest.raises(ValueError, match="vectors of one length"):
        frechet_distance(gaussian(99), gaussian(99, dimensions=3))


def test_the_interval_of_the_distance_contains_it_and_narrows_with_larger_sets() -> None:
    small = frechet_interval(gaussian(40), gaussian(40, 1.0, 1))
    large = frechet_interval(gaussian(640), gaussian(640, 1.0, 1))
    assert small.low < small.value < small.high
    assert small.n == 40
    assert large.low < 4.0 < large.high
    assert 2 < (small.high - small.low) / (large.high - large.low) < 8
