"""How much of a reference's melody a clip hears, and which of its frames when (MusicGen, arXiv:2306.05284, 2.2).

A clip that fits into the windows that the model was trained on hears the melody's beginning. A longer one is made in
windows and hears all of it, each window its part (`model.decoding.windows`); where the melody ends it starts over.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from model.conditioning.config import ChromaConfig
from stages.checkpoints.facts import CheckpointFacts


@dataclass(frozen=True)
class Beginning:
    """So much of a melody's beginning."""

    frames: int
    """At the rate of the model's melodies."""
    seconds: float


def clip_frames(facts: CheckpointFacts, seconds: float) -> int:
    """Frames of codes of a clip: the last one may end after it."""
    return math.ceil(seconds * facts.frame_rate - 1e-6)


def heard(facts: CheckpointFacts, seconds: float) -> Beginning:
    """What a model can hear of a melody in a clip of so many seconds: up to the end of its last window."""
    condition = _condition(facts)
    if clip_frames(facts, seconds) <= facts.segment_frames:
        frames = math.ceil(facts.segment_seconds * condition.frame_rate)
        return Beginning(min(frames, condition.frames), facts.segment_seconds)
    return Beginning(math.ceil(seconds * condition.frame_rate) + condition.frames, seconds + facts.segment_seconds)


def over_clip(melody: Float[np.ndarray, "F 12"], facts: CheckpointFacts, seconds: float) -> Float[np.ndarray, "G 12"]:
    """The melody frame by frame over a clip of so many seconds, as the model is asked to follow it.

    Args:
        melody: what is heard of it.
    """
    condition = _condition(facts)
    count = math.ceil(seconds * condition.frame_rate)
    if clip_frames(facts, seconds) <= facts.segment_frames:
        # One window hears no more than the model's own number of frames, and a short melody again only if it repeats.
        count = min(count, condition.frames if condition.match_length else len(melody))
    return melody[np.arange(count) % len(melody)]


def _condition(facts: CheckpointFacts) -> ChromaConfig:
    assert facts.model.chroma is not None, "only a model that reads melodies hears one"
    return facts.model.chroma
