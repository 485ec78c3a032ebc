"""The rows of `tracks` as they are to become: which recording lies where, what is said of it, in which shard it is.

A shard is filled in order of arrival, and only the last one ever takes new tracks: a row that leaves an earlier shard
leaves a gap. All decisions follow from the rows of earlier runs, the listing and the order of its URIs, and rows whose
files are gone hold their place until all new files are read; so a run that was killed and run again ends with the very
shards of one that was not.
"""

import hashlib
import json
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from stages.ingest.listing import File, Listing
from stages.ingest.metadata.fields import FIELDS, Fields, resolve
from stages.ingest.metadata.sources import NOTHING_SAID, Sources
from stages.ingest.probe import Examined

Row = dict[str, Any]

NEEDED = ("track_id", "shard", "files", "metadata_stamp")
"""The columns of known rows that a ledger decides by; what else a row has, it leaves as it is."""


class Ledger:
    """Rows by their `track_id`, and which of them changed.

    Args:
        known: the rows of earlier runs.
        last_shard: the highest number of a shard that exists, -1 if there is none.
        shard_size: how many tracks a shard takes.
        shares: the shares of the splits `valid` and `test`.
    """

    def __init__(
        self,
        known: Iterable[Row],
        listing: Listing,
        last_shard: int,
        shard_size: int,
        shares: tuple[float, float],
    ) -> None:
        self.rows = {row["track_id"]: row for row in known}
        self.listing = listing
        self._sources = Sources(listing.recordings, listing.metadata)
        self._shard_size, self._shares = shard_size, shares
        self._listed = {file.uri: file for file in listing.recordings}
        self._files = {
            track_id: [place for place in row["files"] if self._stands(place["uri"], place["stamp"])]
            for track_id, row in self.rows.items()
        }
        self._shards: dict[int, list[str]] = defaultdict(list)
        for track_id, row in self.rows.items():
            self._shards[row["shard"]].append(track_id)
        self.last_shard = max([last_shard, *self._shards])
        self._changed: set[str] = set()
        self._counted: set[str] = set()
        self._short: set[int] = set()

    def unread(self, refused: Collection[str]) -> list[File]:
        """The recordings that no row speaks of in their present state, nor a reject that still stands (by its URI)."""
        read = {(place["uri"], place["stamp"]) for places in self._files.values() for place in places}
        return [
            file for file in self.listing.recordings if (file.uri, file.stamp) not in read and file.uri not in refused
        ]

    def add(self, file: File, examined: Examined) -> bool:
        """Enter a recording that was read; True for a new track, False for another place of a known one."""
        track_id = examined.track_id
        new = track_id not in self.rows
        if new:
            if self.last_shard < 0 or self.is_full(self.last_shard):
                self.last_shard += 1
            facts = {name: value for name, value in vars(examined).items() if name != "tags"}
            seconds = examined.frames / examined.sample_rate
            self.rows[track_id] = {**facts, "seconds": seconds, "shard": self.last_shard, "files": []}
            self._shards[self.last_shard].append(track_id)
        place = {"uri": file.uri, "stamp": file.stamp, "tags": examined.tags}
        self._files[track_id] = sorted([*self._files.get(track_id, []), place], key=lambda one: one["uri"])
        return new

    def is_full(self, shard: int) -> bool:
        return len(self._shards[shard]) >= self._shard_size

    def refresh(self, shard: int) -> bool:
        """Bring the rows of a shard up to date, their files and what is said of them; tell whether it must be written.
        Rows with no file wait to be dropped, and those in a folder that cannot be read now stay as they are."""
        stale: dict[str, str] = {}
        closed = self.listing.closed
        for track_id in self._shards[shard]:
            places, row = self._files[track_id], self.rows[track_id]
            if not places or (closed and any(self.listing.is_closed(place["uri"]) for place in places)):
                continue
            stamp = self._metadata_stamp(places)
            if row["files"] != places or row["metadata_stamp"] != stamp:
                stale[track_id] = stamp
        files = [self._listed[place["uri"]] for track_id in stale for place in self._files[track_id]]
        said = dict(zip((file.uri for file in files), self._sources.explicit(files), strict=True))
        for track_id, stamp in stale.items():
            row = self.rows[track_id]
            self.rows[track_id] = {**row, **self._described(track_id, said), "metadata_stamp": stamp}
        self._changed |= stale.keys()
        return shard in self._short or not self._changed.isdisjoint(self._shards[shard])

    def drop(self) -> None:
        """Let go of the rows that have no file left, when all new files are read."""
        for track_id in self.without_file():
            shard = self.rows.pop(track_id)["shard"]
            self._shards[shard].remove(track_id)
            self._short.add(shard)

    def without_file(self) -> list[str]:
        return [track_id for track_id in self.rows if not self._files[track_id]]

    def shards(self) -> list[int]:
        return sorted(self._shards)

    def content(self, shard: int) -> tuple[list[Row], int]:
        """The rows of a shard as they stand, and how many of them are new or changed and were not counted before."""
        changed = self._changed & set(self._shards[shard])
        new = len(changed - self._counted)
        self._changed -= changed
        self._counted |= changed
        self._short.discard(shard)
        return [self.rows[track_id] for track_id in self._shards[shard]], new

    def outdated(self) -> int:
        """How many known rows the listing alone shows to have changed: other files, or other metadata."""
        for shard in self.shards():
            self.refresh(shard)
        return len(self._changed)

    def _stands(self, uri: str, stamp: str) -> bool:
        file = self._listed.get(uri)
        return file.stamp == stamp if file is not None else self.listing.is_closed(uri)

    def _metadata_stamp(self, places: list[dict]) -> str:
        return metadata_stamp([self._sources.stamp(self._listed[place["uri"]]) for place in places])

    def _described(self, track_id: str, said: Mapping[str, list[Fields]]) -> Row:
        """The columns that are not measured. Where a recording lies in several places, what is said of the first comes
        before what is said of the others."""
        places = self._files[track_id]
        sources = [one for place in places for one in (*said[place["uri"]], Fields.from_json(place["tags"]))]
        known = resolve(sources)
        columns: Row = {name: known.values.get(name) for name in FIELDS}
        columns["split"] = split_of(columns["artist"] or "", track_id, *self._shares)
        return {**columns, "uri": places[0]["uri"], "files": places, "warnings": list(known.warnings)}


def metadata_stamp(said: Sequence[list]) -> str:
    """What `Sources.stamp` gave for the files of a row, in short. It changes with what is said of a recording, and with
    which fields are read of it: a release that reads one more goes through all metadata once, and through no sound. (A
    file's own tags change with the file.)"""
    return silent_stamp(len(said)) if all(one == _SILENCE for one in said) else _stamp(said)


@lru_cache
def silent_stamp(files: int) -> str:
    """`metadata_stamp` of a row with so many files of which nothing is said."""
    return _stamp([_SILENCE] * files)


_SILENCE = list(NOTHING_SAID)


def _stamp(said: Sequence[list]) -> str:
    return hashlib.sha256(json.dumps([FIELDS, list(said)]).encode()).hexdigest()[:16]


def split_of(artist: str, track_id: str, valid: float, test: float) -> str:
    """The split of a track: by its artist, so that no artist is in two, else by its content. It hangs on nothing else,
    so a track stays where it is however many come.

    Args:
        valid, test: shares of the splits; the rest is `train`.
    """
    name = " ".join(unicodedata.normalize("NFKC", artist).casefold().split())
    digest = hashlib.sha256(f"artist:{name}".encode() if name else f"track:{track_id}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place >= valid + test:
        return "train"
    return "valid" if place < valid else "test"
