"""Clipping: samples at full scale, and runs of them, are counted once, in blocks of any length."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from stages.audio.clipping import ClippingMeter


def _meter(samples: np.ndarray, *cuts: int) -> ClippingMeter:
    meter = ClippingMeter(len(samples))
    for block in np.split(samples, sorted(cuts), axis=1):
        meter.update(block)
    return meter


def test_three_samples_at_full_scale_are_a_run_and_two_are_not():
    samples = np.zeros((1, 100), np.float32)
    samples[0, 10:12] = 1
    samples[0, 50:53] = [-1, -1.5, -1]
    meter = _meter(samples)
    assert (meter.share, meter.share_in_runs) == (0.05, 0.03)
    assert meter.peak == 1.5


def test_samples_that_reach_16_bit_full_scale_are_clipped():
    assert _meter(np.full((1, 8), 32_767 / 32_768, np.float32)).share_in_runs == 1
    assert _meter(np.full((1, 8), 32_766 / 32_768, np.float32)).share == 0
    assert _meter(np.full((1, 8), -32_767 / 32_768, np.float32)).share == 1


def test_no_samples_have_no_clipping():
    meter = _meter(np.zeros((2, 0), np.float32))
    assert (meter.share, meter.share_in_runs, meter.peak) == (0, 0, 0)


def _slow_runs(row: list[int]) -> int:
    lengths = "".join("x" if abs(value) == 1 else " " for value in row).split()
    return sum(len(run) for run in lengths if len(run) >= 3)


@settings(max_examples=200, deadline=None)
@given(some.lists(some.sampled_from([0, 0, 1, 1, -1]), min_size=1, max_size=60), some.lists(some.integers(0, 60)))
def test_runs_are_counted_once_wherever_the_blocks_end(row, cuts):
    samples = np.array([row, [0] * len(row)], np.float32)
    meter = _meter(samples, *(min(cut, len(row)) for cut in cuts))
    assert meter.share_in_runs == pytest.approx(_slow_runs(row) / samples.size)
    assert meter.share == pytest.approx(np.abs(samples).sum() / samples.size)
