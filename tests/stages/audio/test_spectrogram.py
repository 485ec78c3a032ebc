"""The mel spectrogram of pictures, seams and the comparison of sets of sounds."""

import math
import warnings

import numpy as np
import pytest
import torch

from stages.audio.spectrogram import LOWEST_HERTZ, _mel_bank, log_spectrogram


def sine(hertz: float, sample_rate: int = 16_000) -> torch.Tensor:
    return torch.sin(2 * math.pi * hertz * torch.arange(2 * sample_rate) / sample_rate)


def test_a_higher_tone_lies_in_a_higher_band() -> None:
    bands = [int(log_spectrogram(sine(hertz), 16_000, 64, 20.0).mean(1).argmax()) for hertz in (110, 440, 1760, 6000)]
    assert bands == sorted(set(bands))


@pytest.mark.parametrize("frames_a_second", [7.3, 20.0, 100.0])
def test_the_spectrogram_has_the_frames_of_the_clip_and_its_loudest_point_is_zero(frames_a_second: float) -> None:
    picture = log_spectrogram(sine(440), 16_000, 64, frames_a_second)
    assert picture.shape == (64, math.ceil(2 * frames_a_second))
    assert float(picture.max()) == 0.0
    assert float(picture.min()) >= -80.0


def test_no_band_stays_empty_with_noise() -> None:
    noise = torch.randn(32_000, generator=torch.Generator().manual_seed(0))
    assert float(log_spectrogram(noise, 16_000, 96, 20.0, window_seconds=0.02).mean(1).min()) > -60


def test_silence_and_a_single_sample_have_spectrograms() -> None:
    assert float(log_spectrogram(torch.zeros(16_000), 16_000, 8, 10.0).max()) == -80.0
    assert log_spectrogram(torch.ones(1), 16_000, 8, 10.0).shape == (8, 1)


def test_a_spectrogram_of_no_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0 at 16000"):
        log_spectrogram(torch.zeros(0), 16_000, 8, 10.0)


@pytest.mark.parametrize("sample_rate", [11_025, 16_000, 32_000, 44_100])
@pytest.mark.parametrize(("window", "bands"), [(512, 40), (1024, 128), (2048, 229)])
def test_mel_triangles_equal_those_of_librosa_to_the_bit(sample_rate: int, window: int, bands: int) -> None:
    from librosa.filters import mel

    highest = min(sample_rate / 2, 16_000.0)
    with warnings.catch_warnings(action="ignore"):  # warnings about triangles between two bins, which are filled here
        theirs = mel(sr=sample_rate, n_fft=window, n_mels=bands, fmin=LOWEST_HERTZ, fmax=highest, htk=True, norm=None)
    wide = theirs.sum(1) >= 0.5
    ours = _mel_bank(sample_rate, window, bands).numpy()
    assert np.array_equal(ours[wide], theirs[wide])
    assert (ours.max(1)[~wide] == 1).all()
