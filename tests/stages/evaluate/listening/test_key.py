"""Keys: of simple chords, of the demo corpus, and as people write them."""

import math

import pytest
import torch

from stages.demo.synthesis import compose
from stages.demo.synthesis.rendering import render
from stages.evaluate.listening import estimate_key, pitch_class_profile


def chords(pitches: list[list[int]], sample_rate: int) -> torch.Tensor:
    """Each list of MIDI pitches for a second, with three harmonics."""
    seconds = torch.arange(sample_rate) / sample_rate
    hertz = [[440 * 2 ** ((pitch - 69) / 12) for pitch in chord] for chord in pitches]
    return torch.cat(
        [sum(torch.sin(2 * math.pi * f * h * seconds) / h for f in chord for h in (1, 2, 3)) / 10 for chord in hertz]
    )


CADENCE = [[60, 64, 67], [65, 69, 72], [67, 71, 74], [60, 64, 67]]
MINOR_CADENCE = [[57, 60, 64], [62, 65, 69], [64, 67, 71], [57, 60, 64]]


@pytest.mark.parametrize("sample_rate", [16_000, 32_000, 44_100])
@pytest.mark.parametrize("up", [0, 3, 8])
def test_a_cadence_has_the_key_that_it_closes_in_whatever_the_sample_rate(up: int, sample_rate: int) -> None:
    names = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
    for cadence, tonic, mode in ((CADENCE, 0, "major"), (MINOR_CADENCE, 9, "minor")):
        wav = chords([[pitch + up for pitch in chord] for chord in cadence], sample_rate)
        estimate = estimate_key(pitch_class_profile(wav, sample_rate))
        assert estimate is not None
        assert estimate.name == f"{names[(tonic + up) % 12]} {mode}"


def test_the_key_of_eight_seconds_of_the_demo_corpus_is_exactly_right_ten_times_as_often_as_chance() -> None:
    right = 0
    for index in range(48):
        piece = compose(0, index)
        estimate = estimate_key(pitch_class_profile(render(piece).sum(0)[: 8 * 16_000], 16_000))
        right += estimate is not None and estimate.name == piece.key.name
    assert right / 48 > 10 / 24


def test_silence_and_its_rounding_noise_have_no_key() -> None:
    assert estimate_key(pitch_class_profile(torch.zeros(32_000), 16_000)) is None
    assert estimate_key(pitch_class_profile(torch.randn(32_000) * 1e-6, 16_000)) is None


def test_a_signal_shorter_than_a_frame_still_has_a_profile() -> None:
    profile = pitch_class_profile(chords([[69]], 16_000)[:2_000], 16_000)
    assert float(profile.sum()) == pytest.approx(1.0)
    assert int(profile.argmax()) == 9


def test_a_profile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0 at 16000"):
        pitch_class_profile(torch.zeros(0), 16_000)
