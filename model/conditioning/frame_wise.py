"""Conditions of every frame of codes: its position in beat and bar, and the chord that sounds there.

A model without these conditions has to infer the tempo from what it has generated so far, and drifts. With a vector
for each frame, added to the steps, beats and chords stay where they were asked for (MusiConGen, arXiv:2407.15060, for a
MusicGen; JASCO, arXiv:2406.10970, for flow matching). MusiConGen has pulses at the beats. Here every frame has its
phase in the beat, which also shows how far the next beat is.

The time of a frame is its middle. Unknown values are zeros, which differ from any phase or chord and from "no chord".
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
"""The numbers of a chord: its start and end in seconds, its root, the index of its quality in `CHORD_QUALITIES`, and
its bass. A root of `NO_ROOT` means that no chord sounds."""

SOUNDING = np.array([np.isin(np.arange(len(PITCH_NAMES)), steps) for steps in CHORD_INTERVALS.values()], np.float32)
"""For each of `CHORD_QUALITIES`, 1 at the semitones above the root that sound, else 0."""

Times = Float[npt.NDArray[np.float64], " T"]


def frame_times(start: int, count: int, frame_rate: float) -> Times:
    """Return the middle, in seconds, of each of `count` frames of codes from frame `start` on."""
    return (np.arange(start, start + count) + 0.5) / frame_rate


def beat_vectors(
    beats: Float[npt.NDArray[np.floating[Any]], " M"],
    downbeats: Float[npt.NDArray[np.floating[Any]], " N"],
    times: Times,
    config: BeatConfig,
) -> Float[npt.NDArray[np.float32], "T E"]:
    """Return the positions of moments in beat and bar as sines and cosines.

    They are sin and cos of 2π 2^k p for k = 0 … `waves` - 1, where p is the elapsed share of the beat, then sin and cos
    of 2π q, where q is the elapsed share of the bar. Between two beats the phase rises evenly. It is extrapolated for
    at most one beat before the first and after the last (for bars, at most one bar). Beyond that, and with fewer than
    two events, it is unknown, and the numbers are 0. The phase in the bar is known only where that in the beat is.

    Args:
        beats: times of the beats, seconds, rising.
        downbeats: times of the starts of bars, seconds, rising; empty if they are not known.
        times: the moments, seconds.

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
    """Return the position of each moment in events since the first: 2.25 is a quarter of the way from the third to the
    fourth. NaN where it is unknown."""
    if len(events) < 2:
        return np.full(len(times), np.nan)
    if not (np.diff(events) > 0).all():
        raise ValueError(f"expected {what} in ascending order, got one that is not later than the one before")
    before, after = 2 * events[0] - events[1], 2 * events[-1] - events[-2]
    extended = np.concatenate([[before], events, [after]]).astype(np.float64)
    counts: Float[npt.NDArray[np.float64], " T"] = np.interp(
        times, extended, np.arange(-1, len(events) + 1), left=np.nan, right=np.nan
    )
    return counts


def chord_vectors(
    chords: Float[npt.NDArray[np.floating[Any]], "C 5"], times: Times
) -> Float[npt.NDArray[np.float32], "T E"]:
    """Return the chord at each moment: one-hot root, quality (or "no chord") and bass, then the pitch classes that
    sound. All are zeros where no chord is given.

    The pitch classes that sound depend on root and quality together. One projection cannot compute them: it can only
    sum a vector for the root and one for the quality. So they are given, and chords are similar by the notes that they
    share.

    Args:
        chords: the `CHORD_COLUMNS` of each chord, in the order of time.
        times: the moments, seconds.
    """
    pitches, qualities = len(PITCH_NAMES), len(CHORD_QUALITIES)
    bass, sound = pitches + qualities + 1, 2 * pitches + qualities + 1
    vectors = np.zeros((len(times), ChordsConfig().width), dtype=np.float32)
    if not len(chords):
        return vectors
    chord_indexes = np.searchsorted(chords[:, 0], times, side="right") - 1
    frames = np.flatnonzero((chord_indexes >= 0) & (times < chords[chord_indexes, 1]))
    roots, kinds, basses = chords[chord_indexes[frames], 2:].astype(np.int64).T
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
    """Embeds the vectors of every frame of codes with a projection: [B, most frames, D]."""

    def __init__(self, config: BeatConfig | ChordsConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.projection = nn.Linear(config.width, width)

    def prepare(self, items: Sequence[Float[Tensor, "..."] | None]) -> PreparedVectors:
        """Stack vectors [T, E]. None is a null condition, and a frame of zeros is unknown; both are outside the mask.

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
