"""Near-duplicates: recordings that are copies of others by their sound, whatever their files and names say.

The same recording may come re-encoded, cut, quieter, or a little faster, and often under another artist's name. If a
model learns from one copy and another is held out, what is measured on the held-out copy is memory. So a print is taken
of each recording that is read (`stages.analysis.prints`), stored in the table `prints` beside `tracks`, and compared
with all others. `tracks.copies_of` names the recordings that a recording is a copy of; they share a split
(`stages.ingest.artists`).

A recording is compared peak by peak only with the few that have most quads in common with it
(`schemas.queries.postings`), so that a first ingest takes the same time for each recording, however many there are. Not
all prints are in memory at once: only those of a block of new recordings are, while all others are read shard by shard.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.queries.postings import Keys, most_in_common
from schemas.storage.store import Store
from schemas.tables import PRINTS
from stages.analysis import Print, PrintIndex
from stages.analysis.prints import constellations, quads
from stages.ingest.probe import AudioProbe
from stages.pipeline.contract import Context

Row = dict[str, Any]

BLOCK = 16_384
"""New recordings whose prints are in memory at a time; a print has 14 kB for four minutes of sound."""

SHORTEST_SECONDS = 3.0
"""Shorter passages in common do not make a copy: they may be a jingle, or a bar on the same chords."""


class Prints:
    """The table `prints` of a version of `tracks`."""

    def __init__(self, store: Store, version: str) -> None:
        self._store, self._version = store, version
        self._added: dict[str, tuple[Print, float]] = {}

    def add(self, probe: AudioProbe) -> None:
        """Keep the print of a recording that was read until `of_shard` returns it."""
        if probe.peaks is not None:
            self._added[probe.track_id] = probe.peaks, probe.frames / probe.sample_rate

    def of_shard(self, shard: int, track_ids: Sequence[str]) -> list[Row] | None:
        """Return all rows that a shard must have, or None if it already has them.

        Args:
            track_ids: all recordings of the shard.
        """
        known = self._store.read(PRINTS, self._version, [str(shard)])
        before = known.column("track_id").to_pylist()
        new = [track_id for track_id in track_ids if track_id in self._added]
        if not new and set(before) <= set(track_ids):
            return None
        rows = {row["track_id"]: row for row in known.to_pylist()}
        rows |= {track_id: _row(track_id, *self._added.pop(track_id)) for track_id in new}
        return [rows[track_id] for track_id in track_ids if track_id in rows]

    def shards(self) -> list[str]:
        return self._store.shards(PRINTS, self._version)

    def quads(self, shard: str) -> pa.Table:
        """Return the quads of a shard's recordings, by `track_id`."""
        return self._store.read(PRINTS, self._version, [shard], ["track_id", "quads"])

    def track_ids(self, shard: str) -> list[str]:
        """Return the recordings of a shard that have prints."""
        names: list[str] = self._store.read(PRINTS, self._version, [shard], ["track_id"]).column("track_id").to_pylist()
        return names

    def rows(self, shard: str, track_ids: Collection[str]) -> pa.Table:
        """Return the rows of some recordings of a shard."""
        rows = self._store.read(PRINTS, self._version, [shard])
        return rows.filter(pc.is_in(rows.column("track_id"), pa.array(sorted(track_ids), pa.string())))


def find_copies(context: Context, prints: Prints, new: Mapping[str, int], likeness: float) -> Iterator[tuple[str, str]]:
    """Yield pairs of recordings that are copies of each other; the first of a pair is new. If both are new, the one
    whose id sorts later is first.

    Args:
        new: recordings that were not compared yet, with their shards.
        likeness: how much of the shorter recording must be in the other, 0 to 1.

    Raises:
        Stopped: the run was asked to stop.
    """
    shard_of, worth_comparing = _worth_comparing(context, prints, new)
    others = defaultdict[str, list[str]](list)
    for mine, other in worth_comparing:
        others[mine].append(other)
    ordered = sorted(others, key=lambda track_id: (shard_of[track_id], track_id))
    for start in range(0, len(ordered), BLOCK):
        block = ordered[start : start + BLOCK]
        ours = _rows(prints, shard_of, block)
        wanted = defaultdict[int, list[tuple[str, str]]](list)
        for mine in block:
            for other in others[mine]:
                wanted[shard_of[other]].append((mine, other))
        for shard in sorted(wanted):
            context.check_stopped()
            rows = _rows(prints, shard_of, {other for _, other in wanted[shard]})
            theirs = {track_id: _Recording(row) for track_id, row in rows.items()}
            for mine, pairs in groupby(wanted[shard], key=itemgetter(0)):
                seconds, index = ours[mine]["seconds"], PrintIndex([print_of_row(ours[mine])])
                yield from (pair for pair in pairs if theirs[pair[1]].is_copy(index, seconds, likeness))


def _worth_comparing(
    context: Context, prints: Prints, new: Mapping[str, int]
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the shard of each recording, and the pairs that have most quads in common, ordered as `find_copies` yields
    them."""
    ids = {shard: prints.track_ids(shard) for shard in sorted(prints.shards(), key=int)}
    names = [track_id for shard in ids.values() for track_id in shard]

    def keys(are_new: bool) -> Iterator[Keys]:
        first = 0
        for shard, track_ids in ids.items():
            context.check_stopped()
            wanted = np.array([(track_id in new) is are_new for track_id in track_ids], bool)
            if wanted.any():
                lists = prints.quads(shard).column("quads").filter(pa.array(wanted))
                numbers = np.repeat(first + np.flatnonzero(wanted), pc.list_value_length(lists).to_numpy())
                yield Keys(numbers, pc.list_flatten(lists).to_numpy())
            first += len(track_ids)

    in_common = most_in_common(keys(True), keys(False))
    pairs = [(names[asked], names[other]) for asked, other in zip(*in_common, strict=True)]
    ordered = [(max(pair), min(pair)) if pair[1] in new else pair for pair in pairs]
    return {track_id: int(shard) for shard in ids for track_id in ids[shard]}, ordered


def _rows(prints: Prints, shard_of: Mapping[str, int], track_ids: Collection[str]) -> dict[str, Row]:
    """Return the rows of some recordings by their ids."""
    shards = sorted({shard_of[track_id] for track_id in track_ids})
    return {row["track_id"]: row for shard in shards for row in prints.rows(str(shard), track_ids).to_pylist()}


class _Recording:
    """A recording that new ones are compared with peak by peak; what the comparisons need of its print is computed
    once."""

    def __init__(self, row: Row) -> None:
        self._print, self._seconds = print_of_row(row), row["seconds"]
        self._constellations = constellations(self._print)

    def is_copy(self, index: PrintIndex, seconds: float, likeness: float) -> bool:
        """Tell whether this and another recording are copies of each other.

        Args:
            index: holds only the other recording's print.
            seconds: the other recording's length.
            likeness: how much of the shorter recording must be in the other, 0 to 1.
        """
        passage = index.longest(self._print, self._constellations)
        if passage is None or passage.seconds < SHORTEST_SECONDS:
            return False
        return passage.likeness(seconds, self._seconds) >= likeness


def print_of_row(row: Row) -> Print:
    """Return the print in a row of `prints`."""
    return Print(np.asarray(row["peak_frames"], np.int32), np.asarray(row["peak_pitches"], np.uint8))


def _row(track_id: str, peaks: Print, seconds: float) -> Row:
    return {
        "track_id": track_id,
        "seconds": seconds,
        "peak_frames": peaks.frames,
        "peak_pitches": peaks.pitches,
        "quads": quads(peaks),
    }
