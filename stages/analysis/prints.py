"""Prints: where in time and pitch a recording is strongest, by which copies of it are recognised.

After A. Wang, "An industrial strength audio search algorithm" (ISMIR 2003): the peaks of a spectrogram survive codecs,
gains and other sounds on top. Recordings that share a passage have constellations of peaks in common, at one distance
in time. As in Panako and Olaf (J. Six and M. Leman, ISMIR 2014; J. Six, 2020), a constellation is three peaks,
described by the pitch of the first and the distances of the others from it. So a recording that runs 1 % too fast still
has most of them.

A print holds only the peaks, two small numbers each; constellations are computed from them. Among many recordings,
quads show which pairs to compare. A quad is four peaks (R. Sonnleitner and G. Widmer, "Robust quad-based audio
fingerprinting", TASLP 2016); two recordings that are not copies share about thirty times fewer quads than
constellations.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int, UInt8

from stages.analysis.frames import Array, magnitudes

SAMPLE_RATE = 8_000
"""Sample rate of the sound that prints are taken from, Hz: what lossy coders discard is above half of it."""

WINDOW, HOP = 1024, 256
"""Samples in a window and between windows. 128 ms separates neighbouring notes from 250 Hz up; a frame is 32 ms."""

FRAMES_A_SECOND = SAMPLE_RATE / HOP

LOWEST_HERTZ, HIGHEST_HERTZ, STEPS_AN_OCTAVE = 200.0, 3600.0, 48
"""Frequency range of peaks, and the resolution of their pitch: a quarter of a semitone."""

PEAKS_A_SECOND = 12
"""Peaks kept in each second: the loudest."""

APART_FRAMES, APART_BINS = 6, 12
"""A peak must be the loudest point within this many frames and bins: 0.19 s and 94 Hz."""

DEPTH_DECIBELS, NEAR_FRAMES = 50.0, 62
"""A peak may be at most this many decibels below the loudest point within this many frames: 2 s before and after it."""

SILENT_MAGNITUDE = 1e-6
"""Magnitude (-114 dBFS) below which there is silence."""

PART_SECONDS, MARGIN_SECONDS = 120, 8
"""Sound that is transformed at a time, s, which bounds the memory that is used, and sound before and after it that is
transformed again, because it affects which peaks count. Both are whole seconds, since peaks are counted by the
second."""

FAN, NEAREST, FARTHEST, WIDEST = 3, 2, 63, 72
"""A constellation is a peak and two of the next FAN peaks that are 2 to 63 frames after it and within an octave and a
half."""

PITCH_STEPS, TIME_STEPS = 4, 2
"""Resolution of constellations and quads: steps of pitch (a semitone) and frames (64 ms) that count as equal."""

QUAD_FAN, QUADS = 5, 1024
"""A quad is a peak and three of the next QUAD_FAN peaks. Of a recording's quads the QUADS with the lowest hashes are
kept. Copies keep the same ones (a bottom-k sketch: A. Broder, SEQUENCES 1997)."""

Frames = npt.NDArray[np.int32]
Hashes = npt.NDArray[np.uint32]
Quads = npt.NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Print:
    """The peaks of a recording, ordered by time and then by pitch."""

    frames: Int[Frames, " P"]
    """Time of each peak, in frames of 32 ms."""
    pitches: UInt8[npt.NDArray[np.uint8], " P"]
    """Pitch of each peak, in 48ths of an octave above 200 Hz."""

    def __len__(self) -> int:
        return len(self.frames)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Print):
            return NotImplemented
        return np.array_equal(self.frames, other.frames) and np.array_equal(self.pitches, other.pitches)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class Constellations:
    """Hashes of a print's constellations, in the order of their first peaks; a constellation may have several
    hashes."""

    hashes: Int[Hashes, " H"]
    frames: Int[Frames, " H"]
    """Time of the first peak of each, in frames."""


def take_print(samples: Float[Array, " N"]) -> Print:
    """Return the print of mono samples at `SAMPLE_RATE`; it is empty for silence."""
    meter = PrintMeter()
    meter.update(samples)
    return meter.result()


class PrintMeter:
    """Takes the print of a recording that is given in blocks of any length, in bounded memory."""

    def __init__(self) -> None:
        self._held: list[Array] = []
        self._length = 0
        self._first = 0
        """Frame of the recording at which the held samples begin."""
        self._parts = [Print(np.zeros(0, np.int32), np.zeros(0, np.uint8))]

    def update(self, samples: Float[Array, " n"]) -> None:
        """Add the next samples, mono at `SAMPLE_RATE`."""
        self._held.append(samples)
        self._length += len(samples)
        while self._length >= (PART_SECONDS + 2 * MARGIN_SECONDS) * SAMPLE_RATE:
            self._add_peaks(round(PART_SECONDS * FRAMES_A_SECOND))

    def result(self) -> Print:
        """Return the print of all samples so far; call it once, at the end."""
        if self._length:
            self._add_peaks(None)
            self._held, self._length = [], 0
        frames, pitches = ([getattr(part, name) for part in self._parts] for name in ("frames", "pitches"))
        return Print(np.concatenate(frames), np.concatenate(pitches))

    def _add_peaks(self, count: int | None) -> None:
        """Take the peaks of the next `count` frames (None for all that are left), and keep the samples that later peaks
        depend on."""
        samples, margin = np.concatenate(self._held), round(MARGIN_SECONDS * FRAMES_A_SECOND)
        begin = margin if self._first else 0
        end = None if count is None else begin + count
        peaks = _peaks(samples if end is None else samples[: (end + margin) * HOP], self._first)
        keep = peaks.frames >= self._first + begin
        if end is not None:
            keep &= peaks.frames < self._first + end
            self._held = [samples[(end - margin) * HOP :]]
            self._length = len(self._held[0])
            self._first += end - margin
        self._parts.append(Print(peaks.frames[keep], peaks.pitches[keep]))


def _peaks(samples: Float[Array, " n"], first: int) -> Print:
    """Return the peaks of a part of a recording. `first` is the frame of the recording at which the part begins."""
    spectra = magnitudes(samples, SAMPLE_RATE, WINDOW, FRAMES_A_SECOND, HIGHEST_HERTZ)
    hertz = SAMPLE_RATE / WINDOW
    spectra[:, : round(LOWEST_HERTZ / hertz) + 1] = 0
    loudest = loudest_within(loudest_within(spectra, APART_FRAMES, axis=0), APART_BINS, axis=1)
    level = loudest_within(spectra.max(1), NEAR_FRAMES, axis=0)
    audible = (spectra > SILENT_MAGNITUDE) & (spectra > 10 ** (-DEPTH_DECIBELS / 20) * level[:, None])
    audible[:, -1] = False
    frames, bins = np.divmod(np.flatnonzero((spectra == loudest) & audible), spectra.shape[1])
    strength = spectra[frames, bins]
    order = np.lexsort((bins, -strength, _seconds(frames + first)))
    seconds = _seconds(frames[order] + first)
    kept = np.sort(order[np.arange(len(order)) - np.searchsorted(seconds, seconds) < PEAKS_A_SECOND])
    frames, bins = frames[kept], bins[kept]
    # The maximum of a parabola through three points of the log spectrum gives the pitch more finely than a bin.
    below, at, above = (np.log(spectra[frames, bins + step] + 1e-9) for step in (-1, 0, 1))
    shift = 0.5 * (below - above) / np.minimum(below - 2 * at + above, -1e-9)
    octaves = np.log2((bins + shift.clip(-0.5, 0.5)) * hertz / LOWEST_HERTZ)
    pitches = np.round(octaves * STEPS_AN_OCTAVE).clip(0, 255)
    return Print((frames + first).astype(np.int32), pitches.astype(np.uint8))


def loudest_within(magnitudes: Array, reach: int, axis: int) -> Array:
    """Return the largest magnitude within `reach` steps of each one along an axis. Values beyond the ends count as 0.

    Windows of 2, 4, 8 … are combined, which takes a seventh of the time of scipy's filters."""
    beyond = [(reach, reach) if each == axis else (0, 0) for each in range(magnitudes.ndim)]
    largest, width, window = np.pad(magnitudes, beyond).swapaxes(0, axis), 1, 2 * reach + 1
    while width < window:
        step = min(width, window - width)
        largest, width = np.maximum(largest[:-step], largest[step:]), width + step
    return largest.swapaxes(0, axis)


def _seconds(frames: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return (frames // FRAMES_A_SECOND).astype(np.int64)


def constellations(print_: Print, loosely: bool = False) -> Constellations:
    """Return the hashes of a print's constellations.

    Args:
        loosely: whether to add the hashes that neighbouring steps of pitch and time would give, about ten for each
            constellation. When two prints are compared, one of the two should have them.
    """
    first, second, third = _triples(print_)
    frames, pitches = print_.frames.astype(np.int64), print_.pitches.astype(np.int64)
    times = [frames[other] - frames[first] for other in (second, third)]
    heights = [pitches[other] - pitches[first] + STEPS_AN_OCTAVE * 2 for other in (second, third)]
    around = (-1, 1) if loosely else (0,)
    hashes = [
        _hash(pitches[first] + a, heights[0] + b, heights[1] + c, times[0] + d, times[1] + e)
        for a in around
        for b in around
        for c in around
        for d in around
        for e in around
    ]
    if not loosely:
        return Constellations(hashes[0], print_.frames[first])
    variants = np.sort(np.stack(hashes, axis=1), axis=1)
    different = np.ones(variants.shape, bool)
    different[:, 1:] = variants[:, 1:] != variants[:, :-1]
    return Constellations(variants[different], np.repeat(print_.frames[first], different.sum(1)))


def quads(print_: Print) -> Int[Quads, " Q"]:
    """Return the QUADS lowest hashes of a print's quads, without duplicates, in ascending order. Which recordings are
    compared depends on how many of these they have in common."""
    followers = _followers(print_, QUAD_FAN)
    frames, pitches = print_.frames.astype(np.int64), print_.pitches.astype(np.int64)
    hashes = [np.zeros(0, np.uint64)]
    for chosen in combinations(range(QUAD_FAN), 3):
        first = np.flatnonzero(followers[:, chosen[-1]] >= 0)
        quad = ((pitches[first] + 2) // PITCH_STEPS).astype(np.uint64)
        for position in chosen:
            other = followers[first, position]
            height = (pitches[other] - pitches[first] + STEPS_AN_OCTAVE * 2 + 2) // PITCH_STEPS
            time = (frames[other] - frames[first]) // TIME_STEPS
            quad = (quad << np.uint64(11)) | (height << 5 | time).astype(np.uint64)
        quad *= np.uint64(0x9E3779B97F4A7C15)
        hashes.append((quad ^ (quad >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9))
    lowest: Quads = np.unique(np.concatenate(hashes))[:QUADS]
    return lowest


def _triples(print_: Print) -> list[npt.NDArray[np.int64]]:
    """Return the indices of the first, second and third peak of each constellation."""
    followers = _followers(print_, FAN)
    triples = [
        np.stack([np.arange(len(print_)), followers[:, a], followers[:, b]])[:, followers[:, b] >= 0]
        for a, b in combinations(range(FAN), 2)
    ]
    whole = np.concatenate(triples, axis=1)
    return list(whole[:, np.argsort(whole[0], kind="stable")])


def _followers(print_: Print, fan: int) -> Int[npt.NDArray[np.int64], "P fan"]:
    """Return for each peak the indices of the next `fan` peaks that are near enough; -1 where there are fewer."""
    frames, pitches, count = print_.frames, print_.pitches.astype(np.int64), len(print_)
    followers = np.full((count, fan), -1, np.int64)
    counts = np.zeros(count, np.int64)
    seeking = np.arange(count)
    for step in range(1, 4 * PEAKS_A_SECOND):
        seeking = seeking[: np.searchsorted(seeking, count - step)]
        if not len(seeking):
            break
        apart = frames[seeking + step] - frames[seeking]
        near = (apart >= NEAREST) & (apart <= FARTHEST) & (np.abs(pitches[seeking + step] - pitches[seeking]) < WIDEST)
        at = seeking[near]
        followers[at, counts[at]] = at + step
        counts[at] += 1
        seeking = seeking[(apart <= FARTHEST) & (counts[seeking] < fan)]
    return followers


def _hash(*values: npt.NDArray[np.int64]) -> Hashes:
    """Return a hash of a pitch, two heights and two times: 6 + 6 + 6 + 5 + 5 bits, multiplied by a constant so that
    hashes are spread evenly."""
    pitch, *heights, near, far = values
    packed = (pitch + 2) // PITCH_STEPS
    for height in heights:
        packed = packed << 6 | (height + 2) // PITCH_STEPS
    for time in (near, far):
        packed = packed << 5 | np.minimum(time // TIME_STEPS, 31)
    return (packed.astype(np.uint64) * np.uint64(0x9E3779B1) & np.uint64(0xFFFFFFFF)).astype(np.uint32)
