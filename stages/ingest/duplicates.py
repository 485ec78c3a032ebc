"""Near-duplicates: recordings that are copies of others by their sound, whatever their files and names say.

The same recording comes re-encoded, cut, quieter, or a little faster, and often under another artist's name. Where one
copy is learned from and another is held out, what is measured of the held-out one is memory. So each recording that is
read has its print taken (`stages.analysis.prints`), in the table `prints` beside `tracks`, and is compared with all
that are there; `tracks.copies_of` names those that it is a copy of, and they share a split (`stages.ingest.artists`).

Prints are not all held at once: those of a block of new recordings are, and of all others sketches go by, shard by
shard. Only pairs whose sketches have enough in common are compared peak by peak.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.store import Store
from schemas.tables import PRINTS
from stages.analysis import Print, PrintIndex
from stages.analysis.prints import SKETCHED, constellations, sketch
from stages.ingest.probe import AudioProbe
from stages.pipeline.contract import Context

Row = dict[str, Any]

BLOCK = 1024
"""New recordings that are compared at a time: at most 0.2 MB each."""

SHORTEST_SECONDS = 3.0
"""A passage that is shorter makes no copy: a jingle, or a bar on the same chords."""

LEAST_SHARED, LEAST_SHARE = 3, 0.04
"""Hashes that two sketches have in common, and the share of the smaller one, from which on two recordings are compared.
A copy that is 1 % faster has some 30 % of them, recordings on the same chords 1 %."""


class Prints:
    """The table `prints` of a version of `tracks`."""

    def __init__(self, store: Store, version: str) -> None:
        self._store, self._version = store, version
        self._taken: dict[str, tuple[Print, float]] = {}

    def add(self, probe: AudioProbe) -> None:
        """Enter the print of a recording that was read, until `of_shard` gives it."""
        if probe.peaks is not None:
            self._taken[probe.track_id] = probe.peaks, probe.frames / probe.sample_rate

    def of_shard(self, shard: int, track_ids: Sequence[str]) -> list[Row] | None:
        """Return the rows of a shard as they are to be; None where they are so.

        Args:
            track_ids: all recordings of the shard.
        """
        known = self._store.read(PRINTS, self._version, [str(shard)])
        before = known.column("track_id").to_pylist()
        new = [track_id for track_id in track_ids if track_id in self._taken]
        if not new and set(before) <= set(track_ids):
            return None
        rows = {row["track_id"]: row for row in known.to_pylist()}
        rows |= {track_id: _row(track_id, *self._taken.pop(track_id)) for track_id in new}
        return [rows[track_id] for track_id in track_ids if track_id in rows]

    def shards(self) -> list[str]:
        return self._store.shards(PRINTS, self._version)

    def sketches(self, shard: str) -> pa.Table:
        """Return the sketches of a shard's recordings, by `track_id`."""
        return self._store.read(PRINTS, self._version, [shard], ["track_id", "sketch"])

    def whole(self, shard: str, track_ids: Collection[str]) -> pa.Table:
        """Return the rows of some recordings of a shard."""
        rows = self._store.read(PRINTS, self._version, [shard])
        return rows.filter(pc.is_in(rows.column("track_id"), pa.array(sorted(track_ids), pa.string())))


def find_copies(context: Context, prints: Prints, new: Mapping[str, int], likeness: float) -> Iterator[tuple[str, str]]:
    """Yield pairs of recordings of which one is a copy of the other, the first of them new; where both are, the one
    whose id comes later is first.

    Args:
        new: recordings that were not compared yet, with their shards.
        likeness: how much of the shorter one must be in the other, 0 to 1.
    """
    ordered = sorted(new, key=lambda track_id: (new[track_id], track_id))
    for start in range(0, len(ordered), BLOCK):
        block = ordered[start : start + BLOCK]
        shards = sorted({str(new[track_id]) for track_id in block})
        rows = pa.concat_tables([prints.whole(shard, block) for shard in shards])
        index = _SketchIndex([print_of_row(row) for row in rows.to_pylist()])
        names, seconds = rows.column("track_id").to_pylist(), rows.column("seconds").to_pylist()
        for shard in prints.shards():
            context.check_stopped()
            sketches = prints.sketches(shard)
            candidates = index.candidates(sketches.column("sketch"))
            others = sketches.column("track_id").to_pylist()
            pairs = [(mine, others[other]) for mine, other in candidates]
            pairs = [(mine, other) for mine, other in pairs if other not in new or other < names[mine]]
            whole = {row["track_id"]: row for row in prints.whole(shard, {other for _, other in pairs}).to_pylist()}
            for mine, other in pairs:
                passages = PrintIndex([index.prints[mine]]).passages(print_of_row(whole[other]))
                for _, passage in passages:
                    share = passage.likeness(seconds[mine], whole[other]["seconds"])
                    if passage.seconds >= SHORTEST_SECONDS and share >= likeness:
                        yield names[mine], other


class _SketchIndex:
    """Sketches of some prints, in which those of others are looked up."""

    def __init__(self, prints: Sequence[Print]) -> None:
        self.prints = prints
        told = [constellations(each, loosely=True).hashes for each in prints]
        sketches = [np.unique(hashes[hashes < SKETCHED]) for hashes in told]
        hashes = np.concatenate([np.zeros(0, np.uint32), *sketches])
        order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[order]
        self._owners = np.repeat(np.arange(len(prints)), [len(each) for each in sketches])[order]
        self._sizes = np.array([len(sketch(constellations(each))) for each in prints], np.int64)

    def candidates(self, sketches: pa.ChunkedArray) -> list[tuple[int, int]]:
        """Return the pairs of a print of the index and one of the sketches that are worth comparing, by their places
        in either."""
        sizes = pc.list_value_length(sketches).to_numpy().astype(np.int64)
        hashes: npt.NDArray[np.uint32] = pc.list_flatten(sketches).to_numpy()
        owners = np.repeat(np.arange(len(sizes)), sizes)
        begins, ends = (np.searchsorted(self._hashes, hashes, side) for side in ("left", "right"))
        counts = ends - begins
        places = np.repeat(begins, counts) + np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        pairs = self._owners[places] * len(sizes) + np.repeat(owners, counts)
        different, shared = np.unique(pairs, return_counts=True)
        mine, others = np.divmod(different, max(len(sizes), 1))
        smaller = np.minimum(self._sizes[mine], sizes[others])
        worth = (shared >= LEAST_SHARED) & (shared >= LEAST_SHARE * smaller)
        return list(zip(mine[worth].tolist(), others[worth].tolist(), strict=True))


def print_of_row(row: Row) -> Print:
    """Return the print in a row of `prints`."""
    return Print(np.asarray(row["peak_frames"], np.int32), np.asarray(row["peak_pitches"], np.uint8))


def _row(track_id: str, taken: Print, seconds: float) -> Row:
    return {
        "track_id": track_id,
        "seconds": seconds,
        "peak_frames": taken.frames,
        "peak_pitches": taken.pitches,
        "sketch": sketch(constellations(taken)),
    }
