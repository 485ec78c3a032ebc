"""Copies: passages that two recordings share, found by their prints.

Each constellation that two prints have in common votes for a distance in time between them (A. Wang, ISMIR 2003). The
distance may drift by up to 2.5 %, because one recording may run faster. Votes only show where to look: pieces with the
same chords, tempo and instruments have dozens of constellations in common. So the passage is then compared peak by
peak.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Int

from stages.analysis.prints import FRAMES_A_SECOND, Constellations, Frames, Hashes, Print, constellations

LEAST_VOTES, VOTING_FRAMES = 4, 8
"""Votes needed for two prints to be compared, and the range of distances, in frames (a quarter of a second), that they
must lie in."""

SPEEDS = 1 + np.arange(-5, 6) * 0.005
"""Speeds of the first recording that are tried, as multiples of the other's."""

NEAR_FRAMES, NEAR_STEPS = 2, 2
"""Largest difference between equal peaks of two recordings: frames (64 ms) and steps of pitch (half a semitone)."""

BREAK_EVEN = 0.4
"""Share of a passage's peaks that must be in the other recording for the passage to go on. By chance 5 % are, and up to
30 % in pieces that share chords, tempo and instruments."""


@dataclass(frozen=True)
class Passage:
    """A passage that a recording has in common with another."""

    begin: float
    """Where it begins in the recording, s."""
    other_begin: float
    """Where it begins in the other recording, s."""
    seconds: float
    share: float
    """Share of the passage's peaks that are in the other recording, 0 to 1."""
    speed: float
    """How many times as fast the passage runs in the recording as in the other one."""

    @property
    def strength(self) -> float:
        """Seconds of sound in common: the length of the passage times its share."""
        return self.seconds * self.share

    def likeness(self, seconds: float, other_seconds: float) -> float:
        """Return how much of the shorter of two recordings is in the other, 0 to 1, from the durations of both, s."""
        return min(self.strength / max(min(seconds, other_seconds), 1e-9), 1.0)


class PrintIndex:
    """An index of prints by their constellations, for comparing them all with another print in one pass.

    Args:
        prints: prints of so few recordings that the index fits in memory, at 6 kB per second of sound.
    """

    def __init__(self, prints: Sequence[Print]) -> None:
        self._prints = prints
        indexed = [constellations(each, loosely=True) for each in prints]
        hashes = np.concatenate([np.zeros(0, np.uint32), *(each.hashes for each in indexed)])
        order = np.argsort(hashes, kind="stable")
        self._hashes: Hashes = hashes[order]
        self._frames: Frames = np.concatenate([np.zeros(0, np.int32), *(each.frames for each in indexed)])[order]
        owners = np.repeat(np.arange(len(prints), dtype=np.int32), [len(each.hashes) for each in indexed])
        self._owners: Frames = owners[order]

    def passages(
        self, other: Print, other_constellations: Constellations | None = None
    ) -> Iterator[tuple[int, Passage]]:
        """Yield the longest passage in common with another print, for each print of the index that has one, after that
        print's number.

        Args:
            other_constellations: those of the other print; None computes them, which takes as long as all the rest.
                Pass them if the print is compared with several indexes.
        """
        query = constellations(other) if other_constellations is None else other_constellations
        begins, ends = (np.searchsorted(self._hashes, query.hashes, side) for side in ("left", "right"))
        counts = ends - begins
        matches = np.repeat(begins, counts) + np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        owners, frames, others = self._owners[matches], self._frames[matches], np.repeat(query.frames, counts)
        peaks = other.frames.astype(np.int64) * 256 + other.pitches
        for owner in _voted_for(owners, others - frames):
            votes = owners == owner
            passage = _passage(self._prints[owner], peaks, frames[votes], others[votes])
            if passage is not None:
                yield int(owner), passage

    def longest(self, other: Print, other_constellations: Constellations | None = None) -> Passage | None:
        """Return the longest passage that another print shares with an index of a single print; None if there is none.
        `other_constellations` is as in `passages`."""
        return next((passage for _, passage in self.passages(other, other_constellations)), None)


def compare(print_: Print, other: Print) -> Passage | None:
    """Return the longest passage that two prints have in common; None if there is none."""
    return PrintIndex([print_]).longest(other)


def _voted_for(owners: Frames, distances: Frames) -> list[int]:
    """Return the owners with at least LEAST_VOTES votes for nearly the same distance."""
    owners_voted: set[int] = set()
    for shift in (0, VOTING_FRAMES // 2):
        boxes = owners.astype(np.int64) << 32 | ((distances + shift) // VOTING_FRAMES + (1 << 30))
        different, counts = np.unique(boxes, return_counts=True)
        owners_voted.update((different[counts >= LEAST_VOTES] >> 32).tolist())
    return sorted(owners_voted)


def _passage(print_: Print, peaks: npt.NDArray[np.int64], frames: Frames, others: Frames) -> Passage | None:
    """Return the longest passage that a print shares with another, at the speed and distance with most votes; None if
    there is none. `peaks` are those of the other, as for `_inside`."""
    most, speed, distance = 0, 1.0, 0.0
    for candidate in SPEEDS[np.argsort(np.abs(SPEEDS - 1), kind="stable")]:
        distances = np.sort(others - candidate * frames)
        ends = np.searchsorted(distances, distances + 2 * NEAR_FRAMES, "right")
        votes = ends - np.arange(len(distances))
        best = int(votes.argmax())
        if votes[best] > most:
            most, speed = int(votes[best]), float(candidate)
            distance = float(np.median(distances[best : ends[best]]))
    expected = np.round(print_.frames * speed + distance).astype(np.int64)
    inside = _inside(expected, print_.pitches.astype(np.int64), peaks)
    gains = np.where(inside, 1.0, -BREAK_EVEN / (1 - BREAK_EVEN))
    sums = np.concatenate([[0.0], np.cumsum(gains)])
    lows = np.minimum.accumulate(sums)
    last = int((sums - lows).argmax())
    first = int(np.flatnonzero(sums[: last + 1] == lows[last])[-1])
    if last <= first:
        return None
    begin, end = print_.frames[first] / FRAMES_A_SECOND, (print_.frames[last - 1] + 1) / FRAMES_A_SECOND
    other_begin = max(0.0, float(begin * speed + distance / FRAMES_A_SECOND))
    return Passage(float(begin), other_begin, float(end - begin), float(inside[first:last].mean()), speed)


def _inside(
    frames: Int[npt.NDArray[np.int64], " P"], pitches: Int[npt.NDArray[np.int64], " P"], peaks: npt.NDArray[np.int64]
) -> Bool[npt.NDArray[np.bool_], " P"]:
    """Return for each peak whether one of `peaks`, which are encoded as 256 x frame + pitch in ascending order, is near
    it."""
    near = np.zeros(len(frames), bool)
    for step in range(-NEAR_FRAMES, NEAR_FRAMES + 1):
        start = (frames + step) * 256
        lowest, highest = start + np.maximum(pitches - NEAR_STEPS, 0), start + np.minimum(pitches + NEAR_STEPS, 255)
        near |= np.searchsorted(peaks, highest, "right") > np.searchsorted(peaks, lowest, "left")
    return near
