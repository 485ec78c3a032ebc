"""Bandwidth: where the spectrum ends, of noise that was cut off and of MP3s stored as FLAC, in blocks of any length."""

import io

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as some

from stages.audio import read_audio
from stages.audio.bandwidth import STRIDE, WINDOW, BandwidthMeter
from tests.worlds.recordings import RATE, encoded_by_ffmpeg, tones


def _bandwidth(samples: np.ndarray, rate: int = RATE, *cuts: int) -> float | None:
    meter = BandwidthMeter(rate, len(samples))
    for block in np.split(samples, sorted(cuts), axis=1):
        meter.update(block)
    return meter.result()


def _noise(seconds: float, end: float, rate: int = RATE, level: float = 0.1) -> np.ndarray:
    """Noise that falls by 3 dB an octave and has nothing above `end` Hz: float32 [2, N]."""
    count = round(seconds * rate)
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal((2, count)))
    hertz = np.maximum(np.fft.rfftfreq(count, 1 / rate), 20)
    noise = np.fft.irfft(spectrum / np.sqrt(hertz) * (hertz <= end), count)
    return (level * noise / noise.std()).astype(np.float32)


def _rounded(samples: np.ndarray) -> np.ndarray:
    """Samples as 16 bits store them."""
    return (np.clip(np.round(samples * 32_768), -32_768, 32_767) / 32_768).astype(np.float32)


@pytest.mark.parametrize("rate", [16_000, 44_100, 96_000])
@pytest.mark.parametrize("share", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("level", [0.1, 0.003])
def test_noise_cut_off_and_rounded_to_16_bits_ends_where_it_was_cut(rate, share, level):
    sound = _rounded(_noise(3.0, share * rate / 2, rate, level))
    assert _bandwidth(sound, rate) == pytest.approx(share * rate / 2, abs=10 * rate / WINDOW)


def _stored_mp3(sound: np.ndarray, bit_rate: int) -> np.ndarray:
    """What a 16-bit FLAC stores of an MP3 of the sound."""
    data = encoded_by_ffmpeg("mp3", "libmp3lame", sound, bit_rate=bit_rate)
    decoded, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    assert rate == RATE
    return _rounded(decoded.T)


@pytest.mark.parametrize(
    ("bit_rate", "lowest", "highest"), [(64_000, 10e3, 12e3), (128_000, 16e3, 17.5e3), (320_000, 19.5e3, 21e3)]
)
@pytest.mark.parametrize("loudest", [0.5, 1.6])
def test_an_mp3_stored_as_flac_shows_its_bit_rate_even_if_decoding_clipped_it(bit_rate, lowest, highest, loudest):
    swell = np.linspace(0.1, 1, 4 * RATE, dtype=np.float32)
    noise = _noise(4.0, RATE / 2) * swell
    master = np.tanh(loudest * noise / np.abs(noise).max() * 2).astype(np.float32)
    stored = _stored_mp3(master / np.abs(master).max(), bit_rate)
    assert _bandwidth(_rounded(master)) > 21_900
    assert lowest < _bandwidth(stored) < highest


def test_the_bandwidth_of_real_recordings_is_where_their_encoders_cut_them_off(corpus):
    ends = {"electronic/electro_1.mp3": 16.1e3, "orchestral/battle-epic.ogg": 18.7e3}
    for name, end in ends.items():
        recording = read_audio(str(corpus / name))
        assert _bandwidth(recording.samples, recording.sample_rate) == pytest.approx(end, abs=200)


def test_silence_and_less_than_a_window_have_no_bandwidth():
    assert _bandwidth(np.zeros((2, RATE), np.float32)) is None
    assert _bandwidth(tones(1.0)[:, : WINDOW - 1]) is None
    assert _bandwidth(np.zeros((1, 0), np.float32)) is None


def test_a_recording_that_clips_everywhere_still_has_a_bandwidth():
    assert _bandwidth(np.sign(tones(1.0))) > 20_000


@settings(max_examples=30, deadline=None)
@given(some.lists(some.integers(0, 3 * STRIDE + 100), max_size=8))
def test_the_bandwidth_does_not_depend_on_where_the_blocks_end(cuts):
    sound = _noise(2.3, 9_000)[:, : 3 * STRIDE + 100]
    assert _bandwidth(sound, RATE, *cuts) == _bandwidth(sound)
