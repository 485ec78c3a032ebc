"""Tempo: of clicks and of the demo corpus."""

import pytest
import torch

from stages.demo.synthesis import compose
from stages.demo.synthesis.rendering import render
from stages.evaluate.listening import estimate_tempo, tempo_is_correct


def clicks(bpm: float, seconds: float = 8.0, sample_rate: int = 16_000) -> torch.Tensor:
    """A burst of noise on every beat."""
    generator = torch.Generator().manual_seed(7)
    wav = torch.zeros(round(seconds * sample_rate))
    for beat in range(int(seconds * bpm / 60)):
        start = round(beat * 60 / bpm * sample_rate)
        burst = torch.randn(800, generator=generator) * torch.linspace(1, 0, 800)
        wav[start : start + 800] += burst[: len(wav) - start]
    return wav


@pytest.mark.parametrize("bpm", [62.0, 90.0, 121.0, 150.0, 174.0])
def test_the_tempo_of_clicks_is_theirs_or_an_octave_of_it(bpm: float) -> None:
    tempo = estimate_tempo(clicks(bpm), 16_000)
    assert tempo is not None
    assert tempo_is_correct(bpm, tempo)


def test_the_tempo_of_eight_seconds_of_the_demo_corpus_is_right_nine_times_in_ten() -> None:
    right = 0
    for index in range(48):
        piece = compose(0, index)
        tempo = estimate_tempo(render(piece).sum(0)[: 8 * 16_000], 16_000)
        right += tempo is not None and tempo_is_correct(piece.tempo, tempo)
    assert right / 48 >= 0.9


def test_random_tempos_are_right_far_less_often_than_nine_times_in_ten() -> None:
    """The rule with octaves is not so lenient that anything passes."""
    generator = torch.Generator().manual_seed(1)
    asked = (60 + 120 * torch.rand(2_000, generator=generator)).tolist()
    guessed = (60 + 120 * torch.rand(2_000, generator=generator)).tolist()
    assert sum(map(tempo_is_correct, asked, guessed)) / 2_000 < 0.2


@pytest.mark.parametrize(
    ("asked", "estimated", "right"),
    [
        (120.0, 120.0, True),
        (120.0, 124.7, True),
        (120.0, 125.0, False),
        (120.0, 60.5, True),
        (120.0, 236.0, True),
        (120.0, 180.0, False),
        (120.0, 30.0, False),
    ],
)
def test_four_percent_and_one_octave_are_forgiven(asked: float, estimated: float, right: bool) -> None:
    assert tempo_is_correct(asked, estimated) is right


def test_silence_and_very_short_clips_have_no_tempo() -> None:
    assert estimate_tempo(torch.zeros(16_000 * 8), 16_000) is None
    assert estimate_tempo(clicks(120, seconds=3), 16_000) is None
