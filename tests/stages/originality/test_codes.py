"""Runs of equal codes: found at any position, and not by chance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from stages.originality.codes import LENGTH, Run, longest_run, short_run_keys

DRAW = np.random.default_rng(0)


def series(length: int, seed: int, cardinality: int = 512) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, cardinality, length).astype(np.uint16)


@given(some.integers(0, 200), some.integers(0, 200), some.integers(20, 100), some.integers(0, 2**16))
def test_a_planted_run_is_found_at_any_position(begin, other_begin, length, seed):
    one, other = series(begin + length + 50, seed), series(other_begin + length + 30, seed + 1)
    other[other_begin : other_begin + length] = one[begin : begin + length]
    assert longest_run(series(300, seed + 2), other) is None
    run = longest_run(one, other)
    assert run is not None
    assert run.begin <= begin
    assert run.other_begin - run.begin == other_begin - begin
    assert run.equal >= length


def test_a_run_with_a_tenth_changed_is_one_run_and_with_half_changed_none():
    one = series(400, 3)
    for share, least, most in ((0.1, 240, 400), (0.5, 0, 60)):
        other = one.copy()
        changed = DRAW.permutation(400)[: round(share * 400)]
        other[changed] = series(400, 9)[changed]
        run = longest_run(one, other)
        assert least <= (run.equal if run else 0) <= most


def test_random_and_repetitive_codes_have_no_run_in_common():
    for one in [series(500, seed) for seed in range(5)] + [np.full(500, 7, np.uint16)]:
        for other in (series(20_000, 77), np.full(500, 7, np.uint16), np.tile(np.array([7, 8], np.uint16), 250)):
            assert longest_run(one, other) is None


def test_series_have_keys_in_common_if_they_share_a_run_and_the_codec():
    one, other = series(100, 1), series(100, 2)
    other[30:50] = one[60:80]
    keys = short_run_keys(one, "codec")
    assert len(np.unique(keys)) == len(keys)
    assert len(np.intersect1d(keys, short_run_keys(other, "codec"))) == 20 - LENGTH + 1
    assert not len(np.intersect1d(keys, short_run_keys(other, "another")))
    assert not len(short_run_keys(np.full(500, 7, np.uint16), "codec"))


def test_a_series_too_short_for_a_run_has_none():
    short = series(LENGTH - 1, 1)
    assert longest_run(short, short) is None
    assert not len(short_run_keys(short, None))


@pytest.mark.parametrize("seed", range(5))
def test_the_longest_run_equals_that_of_an_exhaustive_search(seed):
    """The slow oracle tries every distance and every pair of ends."""
    draw = np.random.default_rng(seed)
    one, other = series(60, seed, 40), series(70, seed + 50, 40)
    other[20:45] = one[10:35]
    other[draw.integers(20, 45, 3)] = 41
    best = 0
    for distance in range(-59, 70):
        begin, end = max(0, -distance), min(60, 70 - distance)
        equal = one[begin:end] == other[begin + distance : end + distance]
        for first in range(len(equal)):
            for last in range(first + 1, len(equal) + 1):
                run = equal[first:last]
                if run.sum() - 4 * (~run).sum() > best:
                    best, expected = run.sum() - 4 * (~run).sum(), (distance, int(run.sum()))
    run = longest_run(one, other)
    assert isinstance(run, Run)
    assert (run.other_begin - run.begin, run.equal) == expected
