"""How much of a melody a clip follows: its beginning in one window, all of it over several windows."""

import numpy as np
import pytest

from model.lm.config import STRIDE, stride_frames
from stages.checkpoints.conditions import MelodySpan, clip_frames, melody_over_clip, melody_span
from stages.checkpoints.facts import CheckpointFacts
from tests.worlds.generation_world import model_config


def facts_of(**chroma: object) -> CheckpointFacts:
    """The facts of a model that was trained on windows of 30 s, 50 frames a second."""
    return CheckpointFacts(
        model=model_config(chroma=chroma),
        frame_rate=50.0,
        segment_seconds=30.0,
        text_encoder=None,
        text_encoder_digest=None,
    )


def test_windows_and_strides_equal_those_of_musicgen() -> None:
    assert facts_of().segment_frames == 1500
    assert stride_frames(STRIDE, 1500) == 900
    assert [clip_frames(facts_of(), seconds) for seconds in (30.0, 0.001, 95.01, 0.1 + 0.2)] == [1500, 1, 4751, 15]


@pytest.mark.parametrize(
    ("chroma", "seconds", "expected"),
    [
        ({"frames": 235}, 8.0, MelodySpan(235, 30.0)),
        ({"frames": 235}, 30.0, MelodySpan(235, 30.0)),
        ({"frames": 100}, 30.0, MelodySpan(100, 30.0)),
        ({"frames": 1500, "frame_rate": 50.0}, 30.0, MelodySpan(1500, 30.0)),
        ({"frames": 235}, 95.0, MelodySpan(743 + 235, 125.0)),
    ],
)
def test_the_span_of_a_melody_ends_with_the_clips_last_window(
    chroma: dict, seconds: float, expected: MelodySpan
) -> None:
    assert melody_span(facts_of(**chroma), seconds) == expected


@pytest.mark.parametrize(
    ("chroma", "seconds", "frames"),
    [
        ({}, 2.0, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0]),
        ({"frames": 7}, 2.0, [0, 1, 2, 3, 4, 0, 1]),
        ({"match_length": False}, 2.0, [0, 1, 2, 3, 4]),
        ({"match_length": False}, 40.0, [frame % 5 for frame in range(313)]),
    ],
)
def test_a_short_melody_is_repeated_if_the_model_repeats_it(chroma: dict, seconds: float, frames: list[int]) -> None:
    melody = np.eye(12, dtype=np.float32)[[0, 4, 7, 9, 2]]
    np.testing.assert_array_equal(melody_over_clip(melody, facts_of(**chroma), seconds), melody[frames])
