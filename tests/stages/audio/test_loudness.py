"""Loudness, true peak, silence and clipping: compared with the reference and the standard's signals, in blocks of any
length."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyloudnorm
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from stages.audio import LoudnessMeter, measure_audio, read_audio
from tests.worlds.recordings import RATE, tones


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_loudness_equals_the_reference(rate, channels):
    sound = np.concatenate([tones(3.0, 1, rate, channels), 0.01 * tones(2.0, 2, rate, channels)], axis=1)
    expected = pyloudnorm.Meter(rate).integrated_loudness(sound.T.astype(np.float64))
    assert measure_audio(sound, rate).loudness == pytest.approx(expected, abs=0.01)


def test_loudness_of_real_recordings_equals_the_reference(corpus):
    for name in ("electronic/electro_1.mp3", "orchestral/elf-land.ogg"):
        recording = read_audio(str(corpus / name))
        expected = pyloudnorm.Meter(recording.sample_rate).integrated_loudness(recording.samples.T.astype(np.float64))
        assert measure_audio(recording.samples, recording.sample_rate).loudness == pytest.approx(expected, abs=0.001)


def test_a_full_scale_sine_of_997_hz_in_one_channel_has_minus_3_lufs():
    """BS.1770's own calibration. EBU Tech 3341 allows 0.1 LU, and pyloudnorm's filters use 0.04 of it."""
    time = np.arange(5 * 48_000) / 48_000
    sine = np.sin(2 * np.pi * 997 * time)[None].astype(np.float32)
    assert measure_audio(sine, 48_000).loudness == pytest.approx(-3.01, abs=0.05)
    in_stereo = measure_audio(np.concatenate([sine, sine]), 48_000).loudness
    assert in_stereo == pytest.approx(0.0, abs=0.05)


def test_the_low_frequency_channel_has_no_weight_and_surround_has_more():
    def alone(channel):
        sound = np.zeros((6, RATE * 2), np.float32)
        sound[channel] = tones(2.0, channels=1)
        return measure_audio(sound, RATE).loudness

    assert alone(3) is None
    assert alone(4) - alone(0) == pytest.approx(10 * math.log10(1.41), abs=0.01)


def test_a_true_peak_between_samples_is_found():
    # A quarter of the rate, sampled 45 degrees off its peaks: every sample is 3 dB below them.
    phase = np.pi / 2 * np.arange(RATE) + np.pi / 4
    swell = np.hanning(RATE)
    sine = (swell * np.sin(phase))[None].astype(np.float32)
    assert 20 * math.log10(np.abs(sine).max()) == pytest.approx(-3.01, abs=0.01)
    assert measure_audio(sine, RATE).true_peak == pytest.approx(0.0, abs=0.05)


def test_the_shares_of_silence_and_clipping_are_measured():
    sound = tones(1.0, channels=1)
    padded = np.concatenate([sound, np.zeros((1, 3 * RATE), np.float32)], axis=1)
    assert measure_audio(padded, RATE).silence == pytest.approx(0.75, abs=0.02)
    loud = np.clip(4 * tones(1.0), -1, 1)
    assert measure_audio(loud, RATE).clipping == pytest.approx((np.abs(loud) == 1).mean(), abs=1e-4)
    assert measure_audio(loud, RATE).clipping > 0.05
    assert measure_audio(sound, RATE).clipping == 0


def test_sound_that_is_silent_or_too_short_has_no_loudness():
    nothing = measure_audio(np.zeros((2, RATE), np.float32), RATE)
    assert (nothing.loudness, nothing.true_peak, nothing.silence, nothing.clipping) == (None, None, 1.0, 0.0)
    assert measure_audio(tones(0.3), RATE).loudness is None
    assert measure_audio(tones(0.3), RATE).true_peak is not None
    assert measure_audio(np.zeros((1, 0), np.float32), RATE).loudness is None
    assert measure_audio(np.full((1, 1), 0.5, np.float32), RATE).silence == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused(value):
    sound = tones(1.0)
    sound[1, 20_000] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        measure_audio(sound, RATE)


@settings(max_examples=20, deadline=None)
@given(some.lists(some.integers(1, 9_000), min_size=1, max_size=12), some.integers(0, 3))
def test_measures_do_not_depend_on_the_length_of_blocks(lengths, seed):
    sound = tones(1.1, seed, 16_000)
    meter, start = LoudnessMeter(16_000, 2), 0
    for length in [*lengths, sound.shape[1]]:
        meter.update(sound[:, start : start + length])
        start += length
    parts, whole = meter.result(), measure_audio(sound, 16_000)
    assert parts.silence == whole.silence
    assert parts.clipping == whole.clipping
    assert parts.true_peak == pytest.approx(whole.true_peak, abs=1e-4)
    assert parts.loudness == pytest.approx(whole.loudness, abs=1e-6)


def test_measuring_imports_neither_torch_nor_scipy():
    """Each process that reads recordings would wait for these imports."""
    code = (
        "import sys, numpy; from stages.audio import measure_audio; "
        "measure_audio(numpy.ones((1, 9000), numpy.float32), 48000); "
        "sys.exit(bool({'torch', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False).returncode == 0
