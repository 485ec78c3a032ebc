"""The spectrograms of CLAP equal those of transformers' extractor, one window or many at a time."""

import numpy as np
import pytest
import torch
from transformers import ClapFeatureExtractor

from stages.networks.clap import fill, mel_decibels

RATE = 16_000


def sound(samples: int, count: int = 1) -> np.ndarray:
    generator = np.random.default_rng(samples)
    time = np.arange(samples) / RATE
    tones = 0.4 * np.sin(2 * np.pi * generator.uniform(60, 3000, (count, 1)) * time)
    noise = generator.standard_normal((count, samples)) * generator.uniform(0, 0.1, (count, 1))
    return (tones + noise).astype(np.float32)


def extractor(padding: str = "repeatpad") -> ClapFeatureExtractor:
    return ClapFeatureExtractor(
        sampling_rate=RATE,
        max_length_s=2,
        hop_length=200,
        truncation="rand_trunc",
        padding=padding,
        frequency_max=8_000,
    )


def ours(windows: np.ndarray, like: ClapFeatureExtractor) -> np.ndarray:
    filled = fill(torch.from_numpy(windows), like.nb_max_samples, like.padding)
    bank = torch.from_numpy(like.mel_filters_slaney)
    return mel_decibels(filled, bank, like.fft_window_size, like.hop_length).numpy()


def theirs(windows: np.ndarray, like: ClapFeatureExtractor) -> np.ndarray:
    return np.stack([like(one, sampling_rate=RATE)["input_features"][0][0] for one in windows])


@pytest.mark.parametrize("padding", ["repeatpad", "repeat", "pad"])
@pytest.mark.parametrize("samples", [600, 16_000, 17_001, 31_999, 32_000])
def test_spectrograms_equal_those_of_the_extractor(padding, samples):
    like, windows = extractor(padding), sound(samples, 2)
    expected = theirs(windows, like)
    assert expected.shape == (2, 161, 64)
    np.testing.assert_allclose(ours(windows, like), expected, rtol=0, atol=1e-5)


def test_silence_and_sound_below_the_floor_are_at_minus_100_decibels():
    windows = np.stack([np.zeros(32_000, np.float32), sound(32_000)[0] * np.float32(1e-9)])
    assert (ours(windows, extractor()) == -100).all()
    assert (theirs(windows, extractor()) == -100).all()


def test_a_spectrogram_is_the_same_to_the_bit_in_any_batch():
    windows = sound(32_000, 5)
    assert np.array_equal(ours(windows, extractor())[3:4], ours(windows[3:4], extractor()))


def test_sounds_of_no_samples_or_too_many_are_refused():
    for samples in (0, 33):
        with pytest.raises(ValueError, match=f"expected 1 to 32 samples, got {samples}"):
            fill(torch.zeros(1, samples), 32, "repeatpad")
