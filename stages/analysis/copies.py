"""Copies: passages that two recordings share, found by their prints.

Constellations that two prints have in common, at one distance in time, are votes for a passage (A. Wang, ISMIR 2003);
that distance may drift by 2.5 %, for one of them may run faster. Votes only say where to look: pieces on the same
chords in one tempo, by the same instruments, have dozens in common. So the passage is then heard through, peak by peak.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Int

from stages.analysis.prints import FRAMES_A_SECOND, Constellations, Frames, Hashes, Print, constellations

LEAST_VOTES, VOTING_FRAMES = 4, 8
"""Constellations in common, at distances within a quarter of a second, from which on two prints are compared."""

SPEEDS = 1 + np.arange(-5, 6) * 0.005
"""How fast one of two recordings may run, as a multiple of the other."""

NEAR_FRAMES, NEAR_STEPS = 2, 2
"""A peak of one is in the other where that has one within 64 ms and half a semitone."""

BREAK_EVEN = 0.4
"""A passage goes on as long as this share of its peaks is in the other; by chance some 5 % are, and up to 30 % in
pieces that share chords, tempo and instruments."""


@dataclass(frozen=True)
class Passage:
    """What a recording has in common with another."""

    begin: float
    """Where it begins in the one, s."""
    other_begin: float
    """Where it begins in the other, s."""
    seconds: float
    share: float
    """Of the passage's peaks, how many are in the other."""
    speed: float
    """How fast the other runs there, as a multiple of the one's speed."""

    @property
    def strength(self) -> float:
        """Seconds of sound in common: the passage's, times its share."""
        return self.seconds * self.share

    def likeness(self, seconds: float, other_seconds: float) -> float:
        """Return how much of the shorter of two recordings is in the other, 0 to 1, by the lengths of both."""
        return min(self.strength / max(min(seconds, other_seconds), 1e-9), 1.0)


class PrintIndex:
    """Prints by their constellations, to be compared with others of which each is looked at once.

    Args:
        prints: of recordings few enough for memory, at 6 kB a second of sound.
    """

    def __init__(self, prints: Sequence[Print]) -> None:
        self._prints = prints
        told = [constellations(each, loosely=True) for each in prints]
        hashes = np.concatenate([np.zeros(0, np.uint32), *(each.hashes for each in told)])
        order = np.argsort(hashes, kind="stable")
        self._hashes: Hashes = hashes[order]
        self._frames: Frames = np.concatenate([np.zeros(0, np.int32), *(each.frames for each in told)])[order]
        owners = np.repeat(np.arange(len(prints), dtype=np.int32), [len(each.hashes) for each in told])
        self._owners: Frames = owners[order]

    def passages(self, other: Print, told: Constellations | None = None) -> Iterator[tuple[int, Passage]]:
        """Yield the longest passage in common with another print, for each print of the index that has one: by its
        place among them.

        Args:
            told: the other's constellations, which take as long as all the rest, where it is compared with many.
        """
        told = constellations(other) if told is None else told
        begins, ends = (np.searchsorted(self._hashes, told.hashes, side) for side in ("left", "right"))
        counts = ends - begins
        places = np.repeat(begins, counts) + np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        owners, frames, others = self._owners[places], self._frames[places], np.repeat(told.frames, counts)
        peaks = other.frames.astype(np.int64) * 256 + other.pitches
        for owner in _voted_for(owners, others - frames):
            votes = owners == owner
            passage = _passage(self._prints[owner], peaks, frames[votes], others[votes])
            if passage is not None:
                yield int(owner), passage

    def longest(self, other: Print, told: Constellations | None = None) -> Passage | None:
        """Return the longest passage that another print has in common with the index's only one; None where there is
        none. `told` is as for `passages`."""
        return next((passage for _, passage in self.passages(other, told)), None)


def compare(one: Print, other: Print) -> Passage | None:
    """Return the longest passage that two prints have in common; None where there is none."""
    return PrintIndex([one]).longest(other)


def _voted_for(owners: Frames, distances: Frames) -> list[int]:
    """Return the owners with enough votes for about one distance."""
    found: set[int] = set()
    for shift in (0, VOTING_FRAMES // 2):
        boxes = owners.astype(np.int64) << 32 | ((distances + shift) // VOTING_FRAMES + (1 << 30))
        different, counts = np.unique(boxes, return_counts=True)
        found.update((different[counts >= LEAST_VOTES] >> 32).tolist())
    return sorted(found)


def _passage(one: Print, peaks: npt.NDArray[np.int64], frames: Frames, others: Frames) -> Passage | None:
    """Return the longest passage of a print in another, at the speed and distance that most votes are for."""
    most, speed, distance = 0, 1.0, 0.0
    for candidate in SPEEDS[np.argsort(np.abs(SPEEDS - 1), kind="stable")]:
        distances = np.sort(others - candidate * frames)
        ends = np.searchsorted(distances, distances + 2 * NEAR_FRAMES, "right")
        votes = ends - np.arange(len(distances))
        best = int(votes.argmax())
        if votes[best] > most:
            most, speed = int(votes[best]), float(candidate)
            distance = float(np.median(distances[best : ends[best]]))
    expected = np.round(one.frames * speed + distance).astype(np.int64)
    inside = _inside(expected, one.pitches.astype(np.int64), peaks)
    gains = np.where(inside, 1.0, -BREAK_EVEN / (1 - BREAK_EVEN))
    sums = np.concatenate([[0.0], np.cumsum(gains)])
    lows = np.minimum.accumulate(sums)
    last = int((sums - lows).argmax())
    first = int(np.flatnonzero(sums[: last + 1] == lows[last])[-1])
    if last <= first:
        return None
    begin, end = one.frames[first] / FRAMES_A_SECOND, (one.frames[last - 1] + 1) / FRAMES_A_SECOND
    other_begin = max(0.0, float(begin * speed + distance / FRAMES_A_SECOND))
    return Passage(float(begin), other_begin, float(end - begin), float(inside[first:last].mean()), speed)


def _inside(
    frames: Int[npt.NDArray[np.int64], " P"], pitches: Int[npt.NDArray[np.int64], " P"], peaks: npt.NDArray[np.int64]
) -> Bool[npt.NDArray[np.bool_], " P"]:
    """Tell which peaks have one near them among others, which are given as 256 x frame + pitch."""
    found = np.zeros(len(frames), bool)
    for step in range(-NEAR_FRAMES, NEAR_FRAMES + 1):
        at = (frames + step) * 256
        lowest, highest = at + np.maximum(pitches - NEAR_STEPS, 0), at + np.minimum(pitches + NEAR_STEPS, 255)
        found |= np.searchsorted(peaks, highest, "right") > np.searchsorted(peaks, lowest, "left")
    return found
