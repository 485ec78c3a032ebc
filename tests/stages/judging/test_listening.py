"""Drums are heard in pieces with drums, also through the hiss of a codec."""

import numpy as np
import pytest

from stages.demo.synthesis import Piece, compose
from stages.demo.synthesis.rendering import render
from stages.judging.listening import has_drums

RATE = 16_000

PIECES = [compose(1, index) for index in range(16)]
"""Pieces of another corpus than that of the weights."""


def played(piece: Piece) -> np.ndarray:
    return render(piece, RATE).sum(0).numpy()[: 8 * RATE]


def hiss_after(sound: np.ndarray) -> np.ndarray:
    """A sound with the noise of a coarse codec: a fifth as loud as the sound, and rising and falling with it."""
    loudness = np.sqrt(np.convolve(np.square(sound), np.full(320, 1 / 320), "same"))
    return (sound + 0.2 * loudness * np.random.default_rng(0).standard_normal(len(sound))).astype(np.float32)


@pytest.mark.parametrize("as_heard", [np.asarray, hiss_after])
def test_drums_are_heard_in_pieces_with_drums_and_in_no_others(as_heard) -> None:
    right = [has_drums(as_heard(played(piece)), RATE) == bool(piece.hits) for piece in PIECES]
    assert {bool(piece.hits) for piece in PIECES} == {True, False}
    assert np.mean(right) >= 0.9


@pytest.mark.parametrize("seconds", [0.0, 0.2, 3.0])
def test_no_drums_are_heard_in_silence_of_any_length(seconds: float) -> None:
    assert not has_drums(np.zeros(round(seconds * RATE), np.float32), RATE)
