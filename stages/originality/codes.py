"""Runs of codes that a clip and a recording have in common, in the first codebook, whatever lies between their times.

MusicGen's memorisation experiment (arXiv:2306.05284) counts how much of what follows a prompt is equal to the training
example, exactly and to 80 %, in the first codebook, which holds the coarsest of the sound. Here the place is not known:
short runs that are equal, at any distance in time, say where to look, and there the longest run of which 80 % is equal
counts.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Int

Codes = npt.NDArray[np.uint16]
Hashes = npt.NDArray[np.uint64]

LENGTH, DIFFERENT = 8, 3
"""Codes of a short run, a sixth of a second at 50 Hz, and how many different ones it must have: silence and a tone that
is held repeat one code."""

PARTIAL = 0.8
"""Share of a run that is equal (MusicGen's partial matches)."""

DISTANCES = 8
"""Distances in time, those with most short runs, at which two are compared: music repeats itself."""

_FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Run:
    """A run of codes in common."""

    begin: int
    """Its first frame in the one."""
    other_begin: int
    """Its first frame in the other."""
    frames: int
    equal: int
    """How many of them have equal codes."""


def longest_run(one: Int[Codes, " T"], other: Int[Codes, " U"]) -> Run | None:
    """Return the longest run that two series have in common; None where no short run of one is in the other."""
    hashes, frames = _short_runs(one)
    order = np.argsort(hashes, kind="stable")
    hashes, frames = hashes[order], frames[order]
    others, other_frames = _short_runs(other)
    begins, ends = (np.searchsorted(hashes, others, side) for side in ("left", "right"))
    counts = ends - begins
    places = np.repeat(begins, counts) + np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    distances, votes = np.unique(np.repeat(other_frames, counts) - frames[places], return_counts=True)
    most = distances[np.argsort(-votes, kind="stable")[:DISTANCES]]
    runs = [_longest(one, other, int(distance)) for distance in most]
    return max(runs, key=lambda run: run.equal, default=None)


def short_run_keys(codes: Int[Codes, " T"], codec: str | None) -> Int[Hashes, " R"]:
    """Return the hashes of a series' short runs, each once: by what of it is in common with others, these are chosen
    that are worth comparing.

    Args:
        codec: whose codes they are: those of another one have nothing in common with them.
    """
    salt = int.from_bytes(hashlib.sha256((codec or "").encode()).digest()[:8], "big")
    keys: Hashes = np.unique(_short_runs(codes)[0]) ^ np.uint64(salt)
    return keys


def _short_runs(codes: Int[Codes, " T"]) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Return hashes of all short runs that say something, and the frames at which they begin."""
    if len(codes) < LENGTH:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(codes, LENGTH)
    ordered = np.sort(windows, axis=1)
    frames = np.flatnonzero((ordered[:, 1:] != ordered[:, :-1]).sum(1) + 1 >= DIFFERENT)
    hashes = np.zeros(len(frames), np.uint64)
    for place in range(LENGTH):
        hashes = (hashes ^ windows[frames, place]) * _FACTOR
        hashes ^= hashes >> np.uint64(29)
    return hashes, frames


def _longest(series: Codes, other: Codes, distance: int) -> Run:
    """Return the longest run of which enough is equal, where the other series is so many frames later."""
    begin, end = max(0, -distance), min(len(series), len(other) - distance)
    equal = series[begin:end] == other[begin + distance : end + distance]
    sums = np.concatenate([[0.0], np.cumsum(np.where(equal, 1.0, -PARTIAL / (1 - PARTIAL)))])
    lows = np.minimum.accumulate(sums)
    last = int((sums - lows).argmax())
    first = int(np.flatnonzero(sums[: last + 1] == lows[last])[-1])
    return Run(begin + first, begin + first + distance, last - first, int(equal[first:last].sum()))
