"""The harmony of a recording: pitch classes, chords from beat to beat, and key."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from stages.analysis.chords import Chord, find_chords
from stages.analysis.frames import Array, Array64, checked
from stages.analysis.keys import Key, find_key
from stages.analysis.pitch import pitch_classes
from stages.audio.samples import INAUDIBLE

WITHOUT_BEATS = 0.5
"""Seconds between moments at which a chord may change, if no beats are known."""

SHORTEST = 0.1
"""Seconds; a beat that is nearer to the beginning or the end of the recording is dropped."""


@dataclass(frozen=True)
class Harmony:
    """The chords of a recording and its key."""

    chords: tuple[Chord, ...]
    """Chords one after another, without gaps, from beginning to end; empty for silence."""
    key: Key | None
    """None if nothing has a pitch."""


def find_harmony(
    samples: Float[Array, " N"],
    sample_rate: int,
    beats: Float[Array64, " n"] | None = None,
    downbeats: Float[Array64, " m"] | None = None,
) -> Harmony:
    """Find the chords and the key of a mono signal.

    Args:
        samples: mono, at 8 kHz or more.
        sample_rate: Hz.
        beats: times, s, at which chords may change (`find_rhythm`); None or empty lets them change twice a second.
        downbeats: the beats that begin a bar, at which chords change more readily.

    Raises:
        ValueError: the samples are not mono or not finite, or the rate is too low.
    """
    samples = checked(samples, sample_rate)
    if len(samples) < 2 or np.abs(samples).max() < INAUDIBLE:
        return Harmony((), None)
    seconds = len(samples) / sample_rate
    pitches = pitch_classes(samples, sample_rate)
    inside = np.arange(WITHOUT_BEATS, seconds, WITHOUT_BEATS) if beats is None or not len(beats) else np.asarray(beats)
    inside = inside[(inside > SHORTEST) & (inside < seconds - SHORTEST)]
    moments = np.concatenate([[0.0], inside, [seconds]])
    chords = find_chords(pitches, moments, np.zeros(0) if downbeats is None else np.asarray(downbeats))
    return Harmony(tuple(chords), find_key(pitches, chords))
