"""Conditions of every frame of codes: where in its beat and bar it lies, and which chord sounds there.

A model that reads neither has to guess the tempo from what it has made so far, and loses it. Told frame by frame and
summed to the steps, both stay where they were asked for (MusiConGen, arXiv:2407.15060, for a MusicGen; JASCO,
arXiv:2406.10970, for flow matching). Instead of pulses at the beats, as there, every frame has its phase, so that it
also knows how far the next beat is.

A frame's time is its middle. What is not known is zeros, unlike any phase or chord, and unlike "no chord".
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.conditioning.conditioners import PreparedVectors, project
from model.conditioning.config import CHORD_INTERVALS, CHORD_QUALITIES, PITCH_NAMES, BeatConfig, ChordsConfig
from model.lm.fuser import Condition

CHORD_COLUMNS = ("start", "end", "root", "quality", "bass")
"""The numbers of a chord: when it begins and ends in seconds, its root, the place of its quality in `CHORD_QUALITIES`,
and its bass; `NO_ROOT` as the root is no chord."""

SOUNDING = np.array([np.isin(np.arange(len(PITCH_NAMES)), steps) for steps in CHORD_INTERVALS.values()], np.float32)
"""Which semitones above its root sound in a chord of each of `CHORD_QUALITIES`: 1, else 0."""

Times = Float[npt.NDArray[np.float64], " T"]


def frame_times(start: int, count: int, frame_rate: float) -> Times:
    """Return the middle of each of `count` frames of codes from the frame `start` on, seconds."""
    return (np.arange(start, start + count) + 0.5) / frame_rate


def beat_vectors(
    beats: Float[npt.NDArray[np.floating[Any]], " M"],
    downbeats: Float[npt.NDArray[np.floating[Any]], " N"],
    times: Times,
    config: BeatConfig,
) -> Float[npt.NDArray[np.float32], "T E"]:
    """Return where in beat and bar some moments lie: sin and cos of 2π 2^k p for k = 0 … `waves` - 1, p being the share
    of the beat that is over, then those of the bar.

    Between two beats the phase rises evenly. Before the first and after the last it goes on for a beat at most (that
    of a bar for a bar at most); beyond that, and with fewer than two, it is not known. Of a bar it is known only where
    that of the beat is.

    Args:
        beats: when beats are, seconds, rising.
        downbeats: when bars begin, seconds, rising; empty where nobody knows.

    Raises:
        ValueError: beats or downbeats do not rise.
    """
    beat, bar = _count_events("beats", beats, times), _count_events("downbeats", downbeats, times)
    bar[np.isnan(beat)] = np.nan
    angles = 2 * np.pi * np.column_stack([beat[:, None] * 2.0 ** np.arange(config.waves), bar])
    vectors = np.column_stack(
        [np.sin(angles[:, :-1]), np.cos(angles[:, :-1]), np.sin(angles[:, -1]), np.cos(angles[:, -1])]
    )
    return np.nan_to_num(vectors, nan=0.0).astype(np.float32)


def _count_events(
    what: str, events: Float[npt.NDArray[np.floating[Any]], " M"], times: Times
) -> Float[npt.NDArray[np.float64], " T"]:
    """Return how many events, and which share of the way to the next one, lie between the first and each moment; NaN
    where that is not known."""
    if len(events) < 2:
        return np.full(len(times), np.nan)
    if not (np.diff(events) > 0).all():
        raise ValueError(f"expected rising {what}, got some that are not after the one before")
    before, after = 2 * events[0] - events[1], 2 * events[-1] - events[-2]
    extended = np.concatenate([[before], events, [after]]).astype(np.float64)
    counts: Float[npt.NDArray[np.float64], " T"] = np.interp(
        times, extended, np.arange(-1, len(events) + 1), left=np.nan, right=np.nan
    )
    return counts


def chord_vectors(
    chords: Float[npt.NDArray[np.floating[Any]], "C 5"], times: Times
) -> Float[npt.NDArray[np.float32], "T E"]:
    """Return the chord at some moments: root, quality (or none) and bass, each as one among all, then the pitch classes
    that sound; zeros where no chord is told.

    Which pitches sound follows from root and quality together, and so not from a sum of a vector for each, which is all
    that one projection can make of them. Told, it need not be learned: chords are alike by the notes that they share.

    Args:
        chords: `CHORD_COLUMNS` of each, in the order of time.
    """
    pitches, qualities = len(PITCH_NAMES), len(CHORD_QUALITIES)
    bass, sound = pitches + qualities + 1, 2 * pitches + qualities + 1
    vectors = np.zeros((len(times), ChordsConfig().width), dtype=np.float32)
    if not len(chords):
        return vectors
    places = np.searchsorted(chords[:, 0], times, side="right") - 1
    frames = np.flatnonzero((places >= 0) & (times < chords[places, 1]))
    roots, kinds, basses = chords[places[frames], 2:].astype(np.int64).T
    sounding = roots >= 0
    vectors[frames[~sounding], pitches + qualities] = 1.0
    frames, roots, kinds, basses = frames[sounding], roots[sounding], kinds[sounding], basses[sounding]
    vectors[frames, roots] = 1.0
    vectors[frames, pitches + kinds] = 1.0
    vectors[frames, bass + basses] = 1.0
    vectors[frames, sound:] = SOUNDING[kinds[:, None], (np.arange(pitches) - roots[:, None]) % pitches]
    vectors[frames, sound + basses] = 1.0
    return vectors


class FrameWiseConditioner(nn.Module):
    """Vectors at every frame of codes through a projection: [B, most frames, D]."""

    def __init__(self, config: BeatConfig | ChordsConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.projection = nn.Linear(config.width, width)

    def prepare(self, items: Sequence[Float[Tensor, "..."] | None]) -> PreparedVectors:
        """Stack vectors [T, E]; None is a null, and a frame of zeros is one that nothing is known of.

        Raises:
            ValueError: vectors have another width.
        """
        longest = max([1, *(len(item) for item in items if item is not None)])
        vectors = torch.zeros(len(items), longest, self.config.width)
        for row, item in zip(vectors, items, strict=True):
            if item is not None:
                if item.ndim != 2 or item.shape[1] != self.config.width:
                    raise ValueError(f"expected vectors [T, {self.config.width}], got {list(item.shape)}")
                row[: len(item)] = item
        return PreparedVectors(vectors, vectors.any(-1))

    def forward(self, prepared: PreparedVectors) -> Condition:
        """Return vectors [B, T, D] of the frames."""
        return project(self.projection, prepared.vectors, prepared.mask)
