"""K-weighting by matrix products equals the recursive filters sample by sample, in blocks of any length."""

import numpy as np
import pyloudnorm
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy.signal import lfilter

from stages.audio.loudness import KWeighting, _run_matrix


def recursive(sound: np.ndarray, rate: int) -> np.ndarray:
    weighted = sound.astype(np.float64)
    for biquad in pyloudnorm.Meter(rate)._filters.values():
        weighted = lfilter(biquad.b, biquad.a, weighted, axis=1)
    return weighted


@settings(max_examples=30, deadline=None)
@given(
    some.sampled_from([8_000, 44_100, 48_000, 384_000]),
    some.lists(some.integers(0, 3_000), min_size=1, max_size=8),
    some.floats(-0.5, 0.5),
    some.integers(0, 99),
)
def test_blocks_of_any_length_are_weighted_like_by_the_recursive_filters(rate, lengths, offset, seed):
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, (2, sum(lengths)))
    sound = (noise + offset).astype(np.float32)
    weighting, blocks, start = KWeighting(rate, 2), [], 0
    for length in lengths:
        blocks.append(weighting.update(sound[:, start : start + length]))
        start += length
    blocks.append(weighting.finish())
    weighted = np.concatenate(blocks, axis=1)
    assert weighted.shape == sound.shape
    np.testing.assert_allclose(weighted, recursive(sound, rate), rtol=0, atol=1e-5)


def test_rounding_does_not_add_up_over_a_long_recording():
    sound = np.full((1, 2_000_000), 0.5, np.float32)
    sound[:, 1_900_000:] += 1e-4 * np.sin(np.arange(100_000) / 7, dtype=np.float32)
    weighting = KWeighting(44_100, 1)
    weighted = np.concatenate([weighting.update(sound), weighting.finish()], axis=1)[:, 1_950_000:]
    expected = recursive(sound, 44_100)[:, 1_950_000:]
    assert np.mean(weighted.astype(np.float64) ** 2) == pytest.approx(np.mean(expected**2), rel=1e-3)


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000, 384_000])
def test_the_response_to_a_click_equals_the_references_to_rounding(rate):
    """This checks the coefficients of both filters at once, in float64."""
    click = np.eye(1, 32)
    np.testing.assert_allclose(_run_matrix(rate)[0, :32], recursive(click, rate)[0], rtol=1e-12, atol=1e-15)
