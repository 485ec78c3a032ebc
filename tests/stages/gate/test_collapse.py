"""Collapse: how long a frame is held and how long a loop lasts, compared with counting over the codes."""

import numpy as np
import pytest

from stages.gate.collapse import held_seconds, looped_seconds

RATE = 10.0


def counted_loop(codes: np.ndarray) -> float:
    """The longest stretch that repeats the codes `lag` frames before it, is at least as long as the lag, and has more
    than one code."""
    first, best = codes[0].tolist(), 0
    for lag in range(2, 21):
        run = begin = 0
        for place in range(lag, len(first)):
            begin = place if not run else begin
            run = run + 1 if first[place] == first[place - lag] else 0
            if run >= max(lag, best + 1) and any(first[n] != first[n - 1] for n in range(begin, place + 1)):
                best = run
    return best / RATE


@pytest.mark.parametrize("seed", range(30))
def test_the_length_of_a_loop_equals_that_found_by_counting(seed: int) -> None:
    random = np.random.default_rng(seed)
    codes = random.integers(3, size=(2, 60)).astype(np.uint16)
    if seed % 2:
        period = int(random.integers(2, 12))
        codes[0, 15:50] = np.resize(codes[0, 15 : 15 + period], 35)
    assert looped_seconds(codes, RATE) == counted_loop(codes)


def test_a_frame_counts_as_held_only_in_all_codebooks() -> None:
    codes = np.arange(40, dtype=np.uint16).reshape(2, 20)
    codes[:, 5:12] = codes[:, 5:6]
    assert held_seconds(codes, RATE) == 0.7
    codes[1, 8] += 1
    assert held_seconds(codes, RATE) == 0.3


def test_a_held_frame_is_not_a_loop_and_a_few_frames_are_neither() -> None:
    assert looped_seconds(np.full((2, 50), 3, np.uint16), RATE) == 0
    for frames in range(4):
        codes = np.arange(2 * frames, dtype=np.uint16).reshape(2, frames)
        assert looped_seconds(codes, RATE) == 0
        assert held_seconds(codes, RATE) == (0.1 if frames else 0)
