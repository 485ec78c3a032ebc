"""Seams: a clip made of two pieces has one, and a continuous piece has none."""

import pytest
import torch

from model.decoding.windows import plan_windows
from stages.demo.synthesis import compose
from stages.demo.synthesis.rendering import render
from stages.judging.seams import seam_contrast, window_borders

RATE, SECONDS = 16_000, 9.0


def piece(number: int) -> torch.Tensor:
    return render(compose(0, number)).sum(0)[: round(SECONDS * RATE)]


def test_the_sound_changes_more_where_two_pieces_meet_than_elsewhere() -> None:
    contrasts = []
    for number in range(8):
        clip, other = piece(number), piece(number + 8)
        at = round(4.7 * RATE)
        contrasts.append(seam_contrast(torch.cat([clip[:at], other[at:]]), RATE, [4.7]))
    assert sum(contrast is not None and contrast > 0.85 for contrast in contrasts) >= 6


def test_borders_without_a_change_have_the_contrast_of_any_moment() -> None:
    contrasts = [seam_contrast(piece(number), RATE, [2.3, 4.7, 7.1]) for number in range(24)]
    assert sum(contrast or 0.0 for contrast in contrasts) / len(contrasts) == pytest.approx(0.5, abs=0.12)


def test_without_borders_or_sound_there_is_no_contrast() -> None:
    assert seam_contrast(piece(0), RATE, []) is None
    assert seam_contrast(torch.zeros(RATE * 4), RATE, [2.0]) is None
    assert seam_contrast(piece(0)[: RATE // 4], RATE, [0.1]) is None
    assert seam_contrast(piece(0), RATE, [0.01]) is None


def test_borders_are_where_the_next_window_begins_to_decode() -> None:
    generation = {"frames": 250, "prompt_frames": 10, "frame_rate": 50.0}
    windows = plan_windows(250, 10, 100, 60)
    assert window_borders(generation, 100, 0.6) == [window.start / 50 + window.known / 50 for window in windows[1:]]
    assert window_borders(generation, 100, 0.6) == [2.0, 3.2, 4.4]
    assert window_borders(generation, 250, 0.6) == []
    assert window_borders(generation, None, 0.6) == []
