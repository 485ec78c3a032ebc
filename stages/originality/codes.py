"""Runs of codes that a clip and a recording have in common, in the first codebook, at any distance in time.

MusicGen's memorisation experiment (arXiv:2306.05284) counts how much of what follows a prompt equals the training
example, exactly and to 80 %, in the first codebook, which holds the coarsest part of the sound. Here the position in
the recording is not known. So short equal runs, at any distance in time, show where to look; there the longest run of
which 80 % is equal counts.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Int

Codes = npt.NDArray[np.uint16]
Hashes = npt.NDArray[np.uint64]

LENGTH, DIFFERENT = 8, 3
"""Codes in a short run, a sixth of a second at 50 Hz, and how many different codes it must have: silence and held tones
repeat a single code."""

PARTIAL = 0.8
"""Share of a run that must be equal (MusicGen's partial matches)."""

DISTANCES = 8
"""Most distances in time at which two series are compared: those with most short runs in common. There are several
because music repeats itself."""

_FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Run:
    """A run of codes that two series have in common."""

    begin: int
    """Its first frame in the first series."""
    other_begin: int
    """Its first frame in the other series."""
    frames: int
    """Its length in frames."""
    equal: int
    """Number of its frames with equal codes."""


def longest_run(series: Int[Codes, " T"], other: Int[Codes, " U"]) -> Run | None:
    """Return the run with most equal codes that two series have in common; None if they share no short run."""
    hashes, frames = _short_runs(series)
    order = np.argsort(hashes, kind="stable")
    hashes, frames = hashes[order], frames[order]
    others, other_frames = _short_runs(other)
    begins, ends = (np.searchsorted(hashes, others, side) for side in ("left", "right"))
    counts = ends - begins
    matches = np.repeat(begins, counts) + np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    distances, votes = np.unique(np.repeat(other_frames, counts) - frames[matches], return_counts=True)
    most = distances[np.argsort(-votes, kind="stable")[:DISTANCES]]
    runs = [_longest(series, other, int(distance)) for distance in most]
    return max(runs, key=lambda run: run.equal, default=None)


def short_run_keys(codes: Int[Codes, " T"], codec: str | None) -> Int[Hashes, " R"]:
    """Return the hashes of a series' short runs, without duplicates. Which recordings are compared depends on how many
    of these they have in common.

    Args:
        codec: identity of the codec; codes of different codecs get different hashes.
    """
    salt = int.from_bytes(hashlib.sha256((codec or "").encode()).digest()[:8], "big")
    keys: Hashes = np.unique(_short_runs(codes)[0]) ^ np.uint64(salt)
    return keys


def _short_runs(codes: Int[Codes, " T"]) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Return the hashes of all short runs with at least DIFFERENT codes, and the frames at which they begin."""
    if len(codes) < LENGTH:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(codes, LENGTH)
    ordered = np.sort(windows, axis=1)
    frames = np.flatnonzero((ordered[:, 1:] != ordered[:, :-1]).sum(1) + 1 >= DIFFERENT)
    hashes = np.zeros(len(frames), np.uint64)
    for position in range(LENGTH):
        hashes = (hashes ^ windows[frames, position]) * _FACTOR
        hashes ^= hashes >> np.uint64(29)
    return hashes, frames


def _longest(series: Codes, other: Codes, distance: int) -> Run:
    """Return the longest run of which the share PARTIAL is equal, if `other` is `distance` frames later."""
    begin, end = max(0, -distance), min(len(series), len(other) - distance)
    equal = series[begin:end] == other[begin + distance : end + distance]
    sums = np.concatenate([[0.0], np.cumsum(np.where(equal, 1.0, -PARTIAL / (1 - PARTIAL)))])
    lows = np.minimum.accumulate(sums)
    last = int((sums - lows).argmax())
    first = int(np.flatnonzero(sums[: last + 1] == lows[last])[-1])
    return Run(begin + first, begin + first + distance, last - first, int(equal[first:last].sum()))
