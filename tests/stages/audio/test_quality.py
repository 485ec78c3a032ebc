"""Quality: the offset, digital zeros, dual mono and phase of sounds made to have them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from stages.audio import read_audio
from stages.audio.clipping import ClippingMeter
from stages.audio.quality import AudioQuality, QualityMeter
from tests.worlds.recordings import RATE, encoded, tones, write


def _quality(samples: np.ndarray, *cuts: int) -> AudioQuality:
    clipping = ClippingMeter(len(samples))
    meter = QualityMeter(RATE, len(samples), clipping)
    for block in np.split(samples, sorted(cuts), axis=1):
        clipping.update(block)
        meter.update(block)
    return meter.result()


def test_an_offset_of_one_channel_is_its_dc():
    sound = tones(1.0)
    assert _quality(sound).dc < 1e-3
    sound[1] -= 0.25
    assert _quality(sound).dc == pytest.approx(0.25, abs=1e-3)


def test_zeros_are_the_share_of_samples_that_are_zero():
    sound = tones(1.0) + 0.001
    sound[0, : RATE // 2] = 0
    assert _quality(sound).zeros == pytest.approx(0.25, abs=1e-4)


def test_the_peak_is_the_highest_sample_in_decibels_and_may_exceed_full_scale():
    sound = tones(1.0)
    sound[0, 100] = -2
    assert _quality(sound).peak == pytest.approx(6.02, abs=0.01)
    assert _quality(np.zeros((1, 100), np.float32)).peak is None


def test_phase_is_the_correlation_of_two_channels():
    left, right = np.random.default_rng(0).standard_normal((2, RATE)).astype(np.float32) * 0.1
    assert _quality(np.stack([left, left])).phase == pytest.approx(1)
    assert _quality(np.stack([left, -left])).phase == pytest.approx(-1)
    assert _quality(np.stack([left, right])).phase == pytest.approx(0, abs=0.02)
    assert _quality(np.stack([left, left + right])).phase == pytest.approx(0.5**0.5, abs=0.02)
    assert _quality(left[None]).phase is None
    assert _quality(np.stack([left, 0 * left])).phase is None


def test_two_channels_are_dual_mono_if_their_difference_is_60_decibels_down():
    left, right = np.random.default_rng(0).standard_normal((2, RATE)).astype(np.float32) * 0.1
    assert _quality(np.stack([left, left])).dual_mono
    assert _quality(np.stack([left, left + 1e-3 * right])).dual_mono
    assert not _quality(np.stack([left, left + 3e-3 * right])).dual_mono
    assert not _quality(np.stack([left, right])).dual_mono
    assert not _quality(np.stack([left, -left])).dual_mono
    assert not _quality(left[None]).dual_mono
    assert not _quality(np.zeros((2, 100), np.float32)).dual_mono
    assert not _quality(np.stack([left] * 3)).dual_mono


def test_an_mp3_of_two_equal_channels_is_dual_mono(tmp_path):
    sound = tones(2.0, channels=1)
    recording = read_audio(write(tmp_path / "a.mp3", encoded("MP3", np.concatenate([sound, sound]))))
    assert recording.samples.shape[0] == 2
    assert _quality(recording.samples).dual_mono


@settings(max_examples=20, deadline=None)
@given(some.lists(some.integers(0, 5000), max_size=6), some.integers(1, 3))
def test_quality_does_not_depend_on_where_the_blocks_end(cuts, channels):
    sound = np.clip(2.5 * tones(0.5, 3, 10_000, channels), -1, 1)
    parts, whole = _quality(sound, *cuts), _quality(sound)
    assert vars(parts) == pytest.approx(vars(whole), abs=1e-6)


def test_no_samples_have_the_quality_of_an_empty_recording():
    assert _quality(np.zeros((2, 0), np.float32)) == AudioQuality(None, 0.0, 0.0, 0.0, None, False, None)
