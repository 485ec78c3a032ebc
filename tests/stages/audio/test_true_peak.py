"""True peak: the search that skips most of a recording finds the same peak as oversampling all of it."""

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as some

from stages.audio import read_audio
from stages.audio.true_peak import CHUNK, TruePeakMeter, _chunk_bounds, _chunk_maxima


def everywhere(sound: np.ndarray) -> float:
    """The oracle: all of it at four times the rate."""
    finer = soxr.resample(np.ascontiguousarray(sound.T), 1, 4, quality="HQ")[: 4 * sound.shape[1]]
    return float(max(np.abs(sound).max(), np.abs(finer).max()))


def in_blocks(sound: np.ndarray, lengths: list[int]) -> float:
    meter, start = TruePeakMeter(len(sound)), 0
    for length in [*lengths, sound.shape[1]]:
        meter.update(sound[:, start : start + length])
        start += length
    return meter.result()


def kinds_of_sound(length: int, seed: int) -> dict[str, np.ndarray]:
    """Signals whose peaks between samples are low, high, everywhere, at the ends, or at the highest frequencies."""
    positions, random = np.arange(length), np.random.default_rng(seed)
    noise = random.standard_normal((2, length))
    return {
        "noise": noise,
        "low": np.cumsum(noise, axis=1) / 50,
        "square": np.sign(np.sin(positions / random.uniform(1, 9)))[None],
        "quarter of the rate": np.sin(np.pi / 2 * positions + np.pi / 4)[None],
        "near half of the rate": np.sin(random.uniform(0.9, 1.0) * np.pi * positions + 1)[None],
        "a step before the end": (positions > length - 3)[None] * 1.0,
        "a click": (positions == length // 2)[None] * 1.0,
    }


@settings(max_examples=30, deadline=None)
@given(some.integers(2, 4 * CHUNK), some.lists(some.integers(0, 3 * CHUNK), max_size=5), some.integers(0, 99))
def test_the_search_finds_the_peak_of_oversampling_everything(length, lengths, seed):
    for name, sound in kinds_of_sound(length, seed).items():
        samples = sound.astype(np.float32)
        assert in_blocks(samples, lengths) == pytest.approx(everywhere(samples), rel=1e-5), name


@settings(max_examples=30, deadline=None)
@given(some.integers(0, 999))
def test_no_interpolated_value_exceeds_the_bound_of_its_chunk(seed):
    for name, sound in kinds_of_sound(8 * CHUNK, seed).items():
        samples = sound.astype(np.float32)
        finer = np.abs(soxr.resample(np.ascontiguousarray(samples.T), 1, 4, quality="HQ").T)
        peaks = finer[:, : 32 * CHUNK].reshape(len(samples), 8, 4 * CHUNK).max(axis=2)
        bounds = _chunk_bounds(samples, _chunk_maxima(np.abs(samples)))
        assert (peaks[:, 1:-1] <= bounds * (1 + 1e-5)).all(), name


def test_peaks_of_real_recordings_equal_those_of_oversampling_everything(corpus):
    for name in ("electronic/electro_1.mp3", "orchestral/elf-land.ogg", "orchestral/frantic-old.ogg"):
        samples = read_audio(str(corpus / name)).samples
        assert in_blocks(samples, [100_000] * 10) == pytest.approx(everywhere(samples), rel=1e-6), name


def test_most_of_a_real_recording_is_skipped(corpus):
    samples = read_audio(str(corpus / "orchestral/elf-land.ogg")).samples
    samples = samples[:, : samples.shape[1] // CHUNK * CHUNK]
    assert (_chunk_bounds(samples, _chunk_maxima(np.abs(samples))) > np.abs(samples).max()).mean() < 0.05


def test_silence_has_no_peak():
    assert in_blocks(np.zeros((2, 5_000), np.float32), [7]) == 0
    assert TruePeakMeter(1).result() == 0
