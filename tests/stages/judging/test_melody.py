"""Melody following: agreement, and the agreement that chance would give."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.judging.melody import chance_agreement, chroma_agreement

RATE = 7.8125


def melody(classes: list[int]) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(classes), 12).float()


def test_a_melody_agrees_with_itself_but_not_with_a_transposition() -> None:
    asked = melody([0, 4, 7, 5, 5, 2])
    assert chroma_agreement(asked, RATE, asked, RATE) == 1.0
    assert chroma_agreement(asked.roll(1, dims=1), RATE, asked, RATE) == 0.0


def test_only_the_strongest_class_counts() -> None:
    clip = melody([0, 4, 7]) + 0.9 * melody([2, 2, 2])
    assert chroma_agreement(clip, RATE, melody([0, 4, 9]), RATE) == pytest.approx(2 / 3)


def test_silent_frames_agree_with_nothing_not_even_with_silence() -> None:
    clip = melody([0, 0])
    clip[1] = 0
    assert chroma_agreement(clip, RATE, melody([0, 0]), RATE) == 0.5
    assert chroma_agreement(torch.zeros(2, 12), RATE, torch.zeros(2, 12), RATE) == 0.0


def test_other_frame_rates_are_compared_by_time() -> None:
    asked = melody([0, 0, 4, 4, 7, 7, 5, 5])
    assert chroma_agreement(melody([0, 4, 7, 5]), RATE / 2, asked, RATE) == 1.0
    assert chroma_agreement(asked, RATE, melody([0, 4, 7, 5]), RATE / 2) >= 5 / 8


def test_only_the_time_that_both_cover_is_compared() -> None:
    assert chroma_agreement(melody([0, 4]), RATE, melody([0, 4, 7, 9, 9]), RATE) == 1.0
    assert chroma_agreement(melody([0, 4, 7, 9, 9]), RATE, melody([0, 4]), RATE) == 1.0


@given(st.lists(st.integers(0, 11), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_chance_is_the_mean_agreement_over_shuffles_of_the_asked_frames(classes: list[int], draw) -> None:  # type: ignore[no-untyped-def]
    clip = melody([draw.randrange(12) for _ in classes])
    asked = melody(classes)
    # All cyclic shifts give every asked frame every position equally often, so they have the mean of all orders.
    shifts = [chroma_agreement(clip, RATE, asked.roll(shift, dims=0), RATE) for shift in range(len(classes))]
    assert chance_agreement(clip, RATE, asked, RATE) == pytest.approx(sum(shifts) / len(shifts))


def test_comparing_no_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="expected frames"):
        chroma_agreement(torch.zeros(0, 12), RATE, melody([0]), RATE)
