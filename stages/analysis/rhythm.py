"""The rhythm of a recording: onset strength, tempo, beats and bars."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from stages.analysis.bars import CANDIDATES, bar_probabilities
from stages.analysis.beats import estimate_tempo, even_beats, track_beats
from stages.analysis.frames import Array, Array64, checked
from stages.analysis.onsets import FRAMES_A_SECOND, Onsets, frames_of, onset_strength, seconds_of
from stages.analysis.pitch import pitch_classes
from stages.audio.samples import INAUDIBLE

FEWEST_BEATS = 4
"""Fewest beats that count as a rhythm."""

LEAST_PROBABILITY = 0.4
"""Lowest probability of a way of counting bars at which bars are reported."""

FADED = 1e-2
"""Level relative to the loudest (-40 dB) below which the recording has not begun or has faded out, so that beats do not
count."""


@dataclass(frozen=True, eq=False)
class Rhythm:
    """The beats and bars of a recording."""

    beats: Float[Array64, " n"]
    """Times, s, ascending; empty if the onsets are not periodic."""
    downbeats: Float[Array64, " m"]
    """The beats that begin a bar, s; empty if the bars are not clear."""
    beats_per_bar: int | None
    """3 or 4; None if the bars are not clear."""
    bpm: float | None
    """Beats per minute: 60 over the median distance between beats; None if there are no beats."""
    confidence: float
    """0 to 1: how far the onset strength at beats exceeds that at any moment, times the probability that the beats are
    not off-beats."""


NO_RHYTHM = Rhythm(np.zeros(0), np.zeros(0), None, None, 0.0)


def find_rhythm(samples: Float[Array, " N"], sample_rate: int, bpm: float | None = None) -> Rhythm:
    """Find the beats and bars of a mono signal.

    Args:
        samples: mono, at 8 kHz or more.
        sample_rate: Hz.
        bpm: a hint of the tempo, which decides between a tempo and its double; None for no hint.

    Raises:
        ValueError: the samples are not mono or not finite, the sample rate is too low, or the hint is not above 0.
    """
    samples = checked(samples, sample_rate)
    if bpm is not None and not 0 < bpm < np.inf:
        raise ValueError(f"expected a tempo above 0 as a hint, got {bpm}")
    if len(samples) < sample_rate or np.abs(samples).max() < INAUDIBLE:
        return NO_RHYTHM
    onsets = onset_strength(samples, sample_rate)
    tempo = estimate_tempo(onsets.strength, bpm)
    if tempo is None:
        return NO_RHYTHM
    tracked = even_beats(seconds_of(track_beats(onsets.strength, 60 * FRAMES_A_SECOND / tempo)))
    if len(tracked) < FEWEST_BEATS:
        return NO_RHYTHM
    probabilities = bar_probabilities(onsets, pitch_classes(samples, sample_rate), tracked)
    best = int(probabilities.argmax())
    bar, probability = CANDIDATES[best], float(probabilities[best])
    beats = _between(tracked) if bar.halfway else tracked
    same_beats = float(sum(probabilities[[candidate.halfway == bar.halfway for candidate in CANDIDATES]]))
    numbers = np.arange(len(beats)) - bar.first
    if bar.halfway:
        numbers -= 1  # `_between` added a moment before the first
    sounding = _sounding(onsets, beats) & (beats > -0.03) & (beats < len(samples) / sample_rate)
    if sounding.sum() < FEWEST_BEATS:
        return NO_RHYTHM
    is_certain = probability >= LEAST_PROBABILITY
    downbeats = beats[sounding & (numbers % bar.beats == 0)] if is_certain else np.zeros(0)
    return Rhythm(
        beats[sounding].clip(min=0.0),
        downbeats.clip(min=0.0),
        bar.beats if is_certain else None,
        60 / float(np.median(np.diff(beats))),
        _contrast(onsets, beats[sounding]) * same_beats,
    )


def _between(beats: Float[Array64, " n"]) -> Float[Array64, " m"]:
    """Return the moments halfway between beats, with one more before the first and one after the last."""
    first, last = beats[1] - beats[0], beats[-1] - beats[-2]
    return np.concatenate([[beats[0] - first / 2], (beats[1:] + beats[:-1]) / 2, [beats[-1] + last / 2]])


def _sounding(onsets: Onsets, beats: Float[Array64, " n"]) -> npt.NDArray[np.bool_]:
    """Return which beats lie between the first and the last sound of a recording."""
    frames = frames_of(beats).round().astype(np.int64) + 3
    audible = np.flatnonzero(onsets.level > FADED * onsets.level.max())
    sounding: npt.NDArray[np.bool_] = (frames >= audible[0]) & (frames <= audible[-1])
    return sounding


def _contrast(onsets: Onsets, beats: Float[Array64, " n"]) -> float:
    """Return how far the onset strength at beats exceeds the mean over all moments, as a share of it, 0 to 1."""
    strength = np.maximum.reduce([np.roll(onsets.strength, step) for step in range(-3, 4)])
    at_beats = float(strength[frames_of(beats).round().astype(np.int64).clip(0, len(strength) - 1)].mean())
    return max(0.0, 1 - float(strength.mean()) / max(at_beats, 1e-9))
