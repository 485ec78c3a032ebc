"""How the search for near-duplicates grows with a collection, and what of planted copies it finds.

    python -m tests.benchmarks.copies STORE [--recordings 1000 4000 16000] [--seconds 240]

Recordings are put together from passages of a store's prints, each transposed and stretched by chance: no two are
copies, and they have quads in common as music of few instruments has. Some are planted a second time as a codec, a
cut and another speed would leave them. All are compared as a first ingest compares them, but for the last step, peak by
peak, which is timed on some of the pairs.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from schemas import Store
from schemas.queries.postings import keys_of, most_in_common
from schemas.tables import PRINTS
from stages.analysis import Print, compare
from stages.analysis.prints import FRAMES_A_SECOND, PEAKS_A_SECOND, STEPS_AN_OCTAVE, quads
from tests.benchmarks.results import table

PASSAGE_SECONDS, STRETCH = 10.0, 0.15
PLANTED = 0.02
"""Share of the recordings that is planted a second time."""
TIMED = 300
"""Number of pairs that are compared peak by peak."""


def bases_of(store: Store) -> list[Print]:
    """Return the prints that a store has, of all versions of its recordings, without those of nearly silent ones."""
    columns = ["peak_frames", "peak_pitches"]
    rows = zip(*(store.read_all(PRINTS, columns).column(name) for name in columns), strict=True)
    prints = [Print(frames.values.to_numpy(), pitches.values.to_numpy()) for frames, pitches in rows]
    return [each for each in prints if len(each) > 2 * PEAKS_A_SECOND]


def recording(bases: Sequence[Print], seconds: float, draw: np.random.Generator) -> Print:
    """Put passages of several prints together, each transposed by up to an octave and stretched."""
    frames, pitches, length = [], [], round(PASSAGE_SECONDS * FRAMES_A_SECOND)
    for begin in range(0, round(seconds * FRAMES_A_SECOND), length):
        base = bases[draw.integers(len(bases))]
        first = draw.integers(max(int(base.frames[-1]) - length, 1)) if len(base) else 0
        passage = (base.frames >= first) & (base.frames < first + length)
        at = (base.frames[passage] - first) * draw.uniform(1 - STRETCH, 1 + STRETCH)
        high = base.pitches[passage].astype(int) + draw.integers(-STEPS_AN_OCTAVE, STEPS_AN_OCTAVE)
        inside = (at < length) & (high >= 0) & (high < 200)
        frames.append(begin + np.round(at[inside]).astype(np.int32))
        pitches.append(high[inside].astype(np.uint8))
    return Print(np.concatenate(frames), np.concatenate(pitches))


def copy_of(original: Print, draw: np.random.Generator) -> Print:
    """Return a copy of a print: three quarters of its peaks, moved a little, of a passage or of all of it, up to 1 %
    faster or slower."""
    kept = draw.random(len(original)) < 0.75
    if draw.random() < 0.5:
        first = draw.integers(max(int(original.frames[-1]) * 3 // 4, 1))
        kept &= (original.frames >= first) & (original.frames < first + original.frames[-1] // 4)
    speed = draw.uniform(0.99, 1.01)
    frames = np.round(original.frames[kept] * speed + draw.uniform(-0.5, 0.5)).astype(np.int32)
    pitches = original.pitches[kept] + round(STEPS_AN_OCTAVE * np.log2(1 / speed)) + draw.integers(-1, 2, kept.sum())
    order = np.lexsort((pitches, frames))
    return Print((frames - frames.min())[order], pitches.clip(0, 255).astype(np.uint8)[order])


def collection(bases: Sequence[Print], count: int, seconds: float) -> tuple[list[Print], dict[int, int]]:
    """Make a collection, and a mapping from each planted copy to its original, both by index."""
    draw = np.random.default_rng(0)
    planted = round(count * PLANTED)
    prints = [recording(bases, seconds, draw) for _ in range(count - planted)]
    originals = draw.choice(len(prints), planted, replace=False)
    return prints + [copy_of(prints[place], draw) for place in originals], {
        count - planted + place: int(original) for place, original in enumerate(originals)
    }


@dataclass(frozen=True)
class Search:
    """Time of a search for near-duplicates on one core, s, and its results."""

    recordings: int
    hashing: float
    """Time for computing quads, which ingest does once a recording."""
    joining: float
    comparing: float
    """Time for comparing peak by peak, measured on some pairs and extrapolated to all."""
    pairs: int
    found: int
    planted: int

    @property
    def seconds(self) -> float:
        return self.hashing + self.joining + self.comparing

    def cells(self) -> list[str]:
        """The row of the table."""
        each = (1e3 * part / self.recordings for part in (self.hashing, self.joining, self.comparing))
        counts = [f"{self.pairs / self.recordings:.1f}", f"{self.found} of {self.planted}"]
        return [f"{self.recordings:,}", *(f"{part:.1f}" for part in each), *counts, f"{self.seconds:,.0f}"]


def search(bases: Sequence[Print], count: int, seconds: float) -> Search:
    """Look for near-duplicates in a collection of `count` recordings, each `seconds` long."""
    prints, originals = collection(bases, count, seconds)
    begun = time.process_time()
    keys = [quads(each) for each in prints]
    hashing = time.process_time() - begun
    begun = time.process_time()
    found = most_in_common((keys_of(keys[first : first + 512], first) for first in range(0, count, 512)), [])
    joining = time.process_time() - begun
    pairs = set(zip(found.asked.tolist(), found.others.tolist(), strict=True))
    chosen = np.random.default_rng(1).permutation(len(found.asked))[:TIMED]
    begun = time.process_time()
    for place in chosen:
        compare(prints[found.asked[place]], prints[found.others[place]])
    comparing = (time.process_time() - begun) / max(len(chosen), 1) * len(pairs)
    recalled = sum(pair in pairs for pair in originals.items())
    return Search(count, hashing, joining, comparing, len(pairs), recalled, len(originals))


def main() -> None:
    """Print the table of docs/originality.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("--recordings", type=int, nargs="+", default=[1000, 4000, 16000])
    parser.add_argument("--seconds", type=float, default=240.0)
    arguments = parser.parse_args()
    bases = bases_of(Store(arguments.store))
    rows = [search(bases, count, arguments.seconds).cells() for count in arguments.recordings]
    heads = ("recordings", "quads, ms each", "index, ms each", "peaks, ms each", "pairs each", "planted found", "s")
    print(table(heads, rows))


if __name__ == "__main__":
    main()
