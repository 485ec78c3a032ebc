"""Measures of the sound itself: planted faults are found with their size."""

import numpy as np
import pytest
import torch

from stages.demo.synthesis import compose
from stages.demo.synthesis.rendering import render
from stages.judging.sound import measure_sound, mel_statistics, spectral_centroid

RATE = 16_000


def piece(number: int = 0) -> np.ndarray:
    """A piece of the demo corpus, eight seconds: float32 [1, N]."""
    samples: np.ndarray = render(compose(0, number)).sum(0).numpy()[None, : 8 * RATE].astype(np.float32)
    return samples


def test_a_clean_piece_has_no_fault() -> None:
    facts = measure_sound(piece(), RATE)
    assert facts.dc < 1e-3
    assert facts.zeros < 0.01
    assert facts.head_silence == facts.tail_silence == 0.0
    assert 200 < (spectral_centroid(piece(), RATE) or 0) < 3000


@pytest.mark.parametrize("offset", [-0.05, 0.02])
def test_the_measured_offset_is_that_of_the_worst_channel(offset: float) -> None:
    sound = np.concatenate([piece(), piece() + np.float32(offset)])
    assert measure_sound(sound, RATE).dc == pytest.approx(abs(offset), abs=1e-3)


def test_silence_at_the_ends_and_holes_of_zeros_are_measured() -> None:
    sound = piece()
    sound[:, : RATE // 2] = 0.0
    sound[:, -RATE:] = 1e-5
    sound[:, 3 * RATE : 4 * RATE] = 0.0
    facts = measure_sound(sound, RATE)
    assert (facts.head_silence, facts.tail_silence) == (pytest.approx(0.5), pytest.approx(1.0))
    assert facts.zeros == pytest.approx(1.5 / 8, abs=0.01)


def test_silence_is_both_head_and_tail_and_has_no_centroid() -> None:
    silence = np.zeros((2, 2 * RATE), np.float32)
    facts = measure_sound(silence, RATE)
    assert (facts.head_silence, facts.tail_silence, facts.zeros) == (2.0, 2.0, 1.0)
    assert spectral_centroid(silence, RATE) is None
    with pytest.raises(ValueError, match="expected samples"):
        measure_sound(np.zeros((1, 0), np.float32), RATE)


def test_the_centroid_of_a_tone_is_its_frequency_and_hiss_raises_it() -> None:
    tone = (0.5 * np.sin(2 * np.pi * 500 * np.arange(2 * RATE) / RATE)).astype(np.float32)[None]
    centroid = spectral_centroid(tone, RATE)
    hiss = 0.05 * np.random.default_rng(0).standard_normal(tone.shape).astype(np.float32)
    assert centroid == pytest.approx(500, abs=25)
    assert (spectral_centroid(tone + hiss, RATE) or 0) > 1500


def test_mel_statistics_ignore_loudness_but_not_hiss() -> None:
    sound = torch.from_numpy(piece()[0])
    hiss = 0.02 * torch.randn(len(sound), generator=torch.Generator().manual_seed(0))
    own, softer, hissing = (mel_statistics(wav, RATE) for wav in (sound, 0.3 * sound, sound + hiss))
    np.testing.assert_allclose(own, softer, atol=0.05)
    assert own.shape == (16,)
    assert np.abs(own - hissing).max() > 5
