"""Runs of codes in common: found wherever they lie, and none by chance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from stages.originality.codes import LENGTH, CodeIndex, Run

DRAW = np.random.default_rng(0)


def series(length: int, seed: int, cardinality: int = 512) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, cardinality, length).astype(np.uint16)


@given(some.integers(0, 200), some.integers(0, 200), some.integers(20, 100), some.integers(0, 2**16))
def test_a_planted_run_is_found_wherever_it_lies(begin, other_begin, length, seed):
    one, other = series(begin + length + 50, seed), series(other_begin + length + 30, seed + 1)
    other[other_begin : other_begin + length] = one[begin : begin + length]
    (found,) = CodeIndex([series(300, seed + 2), one]).runs(other)
    owner, run = found
    assert owner == 1
    assert run.begin <= begin
    assert run.other_begin - run.begin == other_begin - begin
    assert run.equal >= length


def test_a_run_of_which_a_tenth_was_changed_is_one_run_and_one_of_which_half_was_is_none():
    one = series(400, 3)
    for share, least, most in ((0.1, 240, 400), (0.5, 0, 60)):
        other = one.copy()
        changed = DRAW.permutation(400)[: round(share * 400)]
        other[changed] = series(400, 9)[changed]
        runs = [run.equal for _, run in CodeIndex([one]).runs(other)]
        assert least <= max(runs, default=0) <= most


def test_random_codes_and_codes_that_repeat_have_nothing_in_common():
    index = CodeIndex([series(500, seed) for seed in range(5)] + [np.full(500, 7, np.uint16)])
    assert list(index.runs(series(20_000, 77))) == []
    assert list(index.runs(np.full(500, 7, np.uint16))) == []
    assert list(index.runs(np.tile(np.array([7, 8], np.uint16), 250))) == []


def test_a_series_too_short_for_a_run_has_none():
    short = series(LENGTH - 1, 1)
    assert list(CodeIndex([short]).runs(short)) == []
    assert list(CodeIndex([]).runs(series(100, 1))) == []


@pytest.mark.parametrize("seed", range(5))
def test_the_longest_run_is_what_looking_at_every_distance_finds(seed):
    """The slow oracle: every distance, every pair of ends."""
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
    ((_, run),) = CodeIndex([one]).runs(other)
    assert isinstance(run, Run)
    assert (run.other_begin - run.begin, run.equal) == expected
