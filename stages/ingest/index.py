"""The rows of `tracks` as a run leaves them: where each recording is, its metadata, and its shard.

Shards are filled in order of arrival, and only the last one takes new tracks: a row that leaves an earlier shard leaves
a gap. All decisions follow from the rows of earlier runs, the listing and the order of its URIs, and rows whose files
are gone stay until all new files are read. So a run that was killed and run again ends with exactly the shards of one
that was not.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stages.ingest.artists import ArtistGroups, copy_keys, distinct, featured_names, group_keys
from stages.ingest.captions import caption_of
from stages.ingest.fields import FIELDS, LIST_ITEMS, Fields, resolve
from stages.ingest.listing import File, Listing
from stages.ingest.metadata import NO_METADATA, MetadataStamp, SourceMetadata
from stages.ingest.probe import AudioProbe
from stages.pipeline.contract import Reject

Row = dict[str, Any]

INDEX_COLUMNS = (
    *("track_id", "shard", "files", "metadata_stamp", "artists", "copies_of", "split", "warnings", "loudness"),
)
"""The columns of known rows that an index needs for its decisions; it leaves the other columns as they are."""

FILE_STATES = ("files.uri", "files.stamp")
"""The columns that say which files, in which state, known rows are of. The files' tags are not among them: they would
take more memory than all else."""

COMPARED_COLUMNS = (*FILE_STATES, "metadata_stamp")
"""The columns of known rows that `is_unchanged` compares."""


class TrackIndex:
    """Rows by their `track_id`, and which of them changed.

    Args:
        known: the rows of earlier runs.
        metadata: the metadata beside the recordings of the listing.
        last_shard: the highest number of a shard that exists, -1 if there is none.
        shard_size: how many tracks a shard takes.
        shares: the shares of the splits `valid` and `test`.
        captions: whether tracks without a description are given one (`ingest.captions`).
    """

    def __init__(
        self,
        known: Iterable[Row],
        listing: Listing,
        metadata: SourceMetadata,
        last_shard: int,
        shard_size: int,
        shares: tuple[float, float],
        captions: str = "none",
    ) -> None:
        self.rows = {row["track_id"]: row for row in known}
        self.listing = listing
        self._metadata = metadata
        self._shard_size, self._shares, self._captions = shard_size, shares, captions
        self._listed = {file.uri: file for file in listing.recordings}
        self._files = {
            track_id: [file for file in row["files"] if self._is_current(file["uri"], file["stamp"])]
            for track_id, row in self.rows.items()
        }
        self._shards: dict[int, list[str]] = defaultdict(list)
        for track_id, row in self.rows.items():
            self._shards[row["shard"]].append(track_id)
        self.last_shard = max([last_shard, *self._shards])
        self._changed: set[str] = set()
        self._counted: set[str] = set()
        self._shrunk: set[int] = set()
        self._groups: ArtistGroups | None = None

    def unread(self, refused: Collection[str]) -> list[File]:
        """Return the recordings whose present state is not in any row, except those whose URIs are in `refused`."""
        read = {(file["uri"], file["stamp"]) for files in self._files.values() for file in files}
        return [
            file for file in self.listing.recordings if (file.uri, file.stamp) not in read and file.uri not in refused
        ]

    def add(self, file: File, probe: AudioProbe) -> bool:
        """Enter a recording that was read. Return True if it is a new track, False if it is another file of a known
        one."""
        track_id = probe.track_id
        is_new = track_id not in self.rows
        if is_new:
            if self.last_shard < 0 or self.is_full(self.last_shard):
                self.last_shard += 1
            measured = {name: value for name, value in vars(probe).items() if name not in ("tags", "peaks")}
            seconds = probe.frames / probe.sample_rate
            self.rows[track_id] = {
                **measured,
                "seconds": seconds,
                "shard": self.last_shard,
                "files": [],
                "copies_of": None,
            }
            self._shards[self.last_shard].append(track_id)
        entry = {"uri": file.uri, "stamp": file.stamp, "tags": probe.tags}
        self._files[track_id] = sorted([*self._files.get(track_id, []), entry], key=lambda entry: entry["uri"])
        return is_new

    def is_full(self, shard: int) -> bool:
        return len(self._shards[shard]) >= self._shard_size

    def refresh(self, shards: Iterable[int]) -> list[int]:
        """Update the files, metadata and splits of the rows in some shards, and return those of the shards that must be
        written.

        Rows without a file are left for `drop_removed`, and rows with files in a folder that cannot be read now stay as
        they are."""
        shards = list(shards)
        for shard in shards:
            self._refresh_metadata(shard)
        for shard in shards:
            self._refresh_splits(shard)
        return [shard for shard in shards if shard in self._shrunk or not self._changed.isdisjoint(self._shards[shard])]

    def _refresh_metadata(self, shard: int) -> None:
        stale: dict[str, str] = {}
        unreadable = self.listing.unreadable_folders
        for track_id in self._shards[shard]:
            files, row = self._files[track_id], self.rows[track_id]
            if not files or (unreadable and any(self.listing.is_in_unreadable_folder(file["uri"]) for file in files)):
                continue
            stamp = self._metadata_stamp(files)
            if row["files"] != files or row["metadata_stamp"] != stamp:
                stale[track_id] = stamp
        recordings = [self._listed[file["uri"]] for track_id in stale for file in self._files[track_id]]
        described = zip((file.uri for file in recordings), self._metadata.fields_of(recordings), strict=True)
        fields = dict(described)
        for track_id, stamp in stale.items():
            before = self.rows[track_id]
            row = {"split": None, **before, **self._metadata_columns(track_id, fields), "metadata_stamp": stamp}
            if "artists" in before and row["artists"] != before["artists"]:  # the groups of artists change too
                row["split"] = self._groups = None
            self.rows[track_id] = row
            if self._groups is not None:
                self._connect(self._groups, row)
        self._changed |= stale.keys()

    def _refresh_splits(self, shard: int) -> None:
        """Put every row of a shard into the split of its group, which tracks in other shards may have changed."""
        if self._groups is None:
            self._groups = ArtistGroups(*self._shares)
            for track_id, row in self.rows.items():
                if self._files[track_id] and "artists" in row:
                    self._connect(self._groups, row)
        for track_id in self._shards[shard]:
            row = self.rows[track_id]
            if not self._files[track_id]:
                continue
            split = self._groups.split(group_keys(row["artists"] or (), track_id)[0])
            if row["split"] != split:
                self.rows[track_id] = {**row, "split": split}
                self._changed.add(track_id)

    def _connect(self, groups: ArtistGroups, row: Row) -> None:
        keys = group_keys(row["artists"] or (), row["track_id"])
        groups.connect([*keys, *copy_keys(row["track_id"], row["copies_of"] or ())], row["split"])

    def uncompared(self) -> dict[str, int]:
        """Return the recordings whose sound was not yet compared with that of others, with their shards."""
        return {track_id: row["shard"] for track_id, row in self.rows.items() if row["copies_of"] is None}

    def enter_copies(self, copies: Mapping[str, Collection[str]]) -> dict[str, str]:
        """Enter the results of comparing recordings, and move rows to other splits where copies require it.

        A pair is entered once: only one of the two names the other.

        Args:
            copies: for each recording that was compared, those that it is a copy of.

        Returns:
            The former split of each other recording that moves, by its `track_id`.
        """
        for track_id, originals in copies.items():
            named = [each for each in originals if track_id not in (self.rows[each]["copies_of"] or ())]
            self.rows[track_id] = row = {**self.rows[track_id], "copies_of": sorted(named)}
            self._changed.add(track_id)
            if self._groups is not None:
                self._connect(self._groups, row)
        before = {track_id: row["split"] for track_id, row in self.rows.items() if track_id not in copies}
        for shard in self.shards():
            self._refresh_splits(shard)
        return {track_id: split for track_id, split in before.items() if self.rows[track_id]["split"] != split}

    def drop_removed(self) -> None:
        """Drop the rows that have no file left. Call this only after all new files have been read."""
        for track_id in self.removed():
            self._groups = None
            shard = self.rows.pop(track_id)["shard"]
            self._shards[shard].remove(track_id)
            self._shrunk.add(shard)

    def removed(self) -> list[str]:
        """Return the `track_id` of every row that has no file left."""
        return [track_id for track_id in self.rows if not self._files[track_id]]

    def shards(self) -> list[int]:
        return sorted(self._shards)

    def require(self, shards: Iterable[int]) -> None:
        """Have shards written even if nothing in their rows changes."""
        self._shrunk.update(shards)

    def take_shard(self, shard: int) -> tuple[list[Row], set[str]]:
        """Return a shard's present rows, to be written, and the `track_id` of those that are new or changed and that
        this method has not returned as such before."""
        changed = self._changed & set(self._shards[shard])
        new = changed - self._counted
        self._changed -= changed
        self._counted |= changed
        self._shrunk.discard(shard)
        return [self.rows[track_id] for track_id in self._shards[shard]], new

    def outdated(self) -> set[str]:
        """Return the `track_id` of the known rows that, by the listing alone, have changed: other files, or other
        metadata."""
        self.refresh(self.shards())
        return set(self._changed)

    def _is_current(self, uri: str, stamp: str) -> bool:
        file = self._listed.get(uri)
        return file.stamp == stamp if file is not None else self.listing.is_in_unreadable_folder(uri)

    def _metadata_stamp(self, files: Sequence[Row]) -> str:
        return metadata_stamp([self._metadata.stamp(self._listed[file["uri"]]) for file in files], self._captions)

    def _metadata_columns(self, track_id: str, fields: Mapping[str, list[Fields]]) -> Row:
        """Return the columns that are not measured. If a recording is in several files, the metadata of the first file
        takes precedence."""
        files = self._files[track_id]
        known = resolve(each for file in files for each in (*fields[file["uri"]], Fields.from_json(file["tags"])))
        columns: Row = {name: known.values.get(name) for name in FIELDS}
        artists = [*(columns["artists"] or ()), *featured_names(columns["title"] or "")]
        columns["artists"] = distinct(artists)[:LIST_ITEMS] or None
        columns["description_source"] = "metadata" if columns["description"] else None
        if self._captions == "template" and not columns["description"]:
            columns["description"] = caption_of(columns, self.rows[track_id]["loudness"])
            columns["description_source"] = "template" if columns["description"] else None
        return {**columns, "uri": files[0]["uri"], "files": files, "warnings": list(known.warnings)}


def metadata_stamp(stamps: Sequence[MetadataStamp], captions: str = "none") -> str:
    """Return a digest of what `SourceMetadata.stamp` gave for the files of a row.

    It changes with a recording's metadata and with the set of fields that are read: a release that reads one more field
    goes through all metadata once, but reads no sound. (A change of a file's own tags is a change of the file.)"""
    if all(each == NO_METADATA for each in stamps):
        return _empty_metadata_stamp(len(stamps), captions)
    return _stamp_digest(stamps, captions)


@lru_cache
def _empty_metadata_stamp(files: int, captions: str) -> str:
    """Return the `metadata_stamp` of a row of `files` files without metadata beside them."""
    return _stamp_digest([NO_METADATA] * files, captions)


def _stamp_digest(stamps: Sequence[MetadataStamp], captions: str) -> str:
    return hashlib.sha256(json.dumps([FIELDS, captions, list(stamps)]).encode()).hexdigest()[:16]


def is_unchanged(
    listing: Listing,
    metadata: SourceMetadata,
    known: pa.Table,
    lasting: Mapping[str, Reject],
    refused: pa.Table,
    captions: str = "none",
) -> bool:
    """Tell whether nothing is new, gone or changed: neither recordings, nor their metadata, nor rejects.

    This is so on most nights, even with a million recordings. A `TrackIndex` could answer too, but it makes Python
    objects of all rows; here whole columns are compared.

    Args:
        known: `COMPARED_COLUMNS` of the rows of earlier runs.
        lasting: the rejects that hold for this listing, by key.
        refused: the rejects of earlier runs.
    """
    if listing.unreadable_folders or set(lasting) != set(refused.column("key").to_pylist()):
        return False
    recordings = [file for file in listing.recordings if file.uri not in lasting] if lasting else listing.recordings
    files = pc.list_flatten(known.column("files"))
    if not known.num_rows or len(recordings) != len(files):
        return False
    return _are_as_read(recordings, files) and _metadata_is_unchanged(listing, metadata, known, captions)


COMPARED_AT_ONCE = 2**16
"""Files whose states are compared at a time; all at once would take as much memory again."""


def _are_as_read(recordings: Sequence[File], files: pa.ChunkedArray) -> bool:
    """Tell whether recordings, in the order of their URIs, are the same files in the same state as the records in
    `files`, which are in any order."""
    # Arrow sorts text in the same order as Python.
    order = pc.sort_indices(pc.struct_field(files, "uri").combine_chunks())
    for name in ("uri", "stamp"):
        read_before = pc.struct_field(files, name).combine_chunks()
        for first in range(0, len(recordings), COMPARED_AT_ONCE):
            now = pa.array([getattr(file, name) for file in recordings[first : first + COMPARED_AT_ONCE]], pa.string())
            if not now.equals(read_before.take(order.slice(first, COMPARED_AT_ONCE))):
                return False
    return True


def _metadata_is_unchanged(listing: Listing, metadata: SourceMetadata, known: pa.Table, captions: str) -> bool:
    """Tell whether every row's `metadata_stamp` is what the metadata of its files would give now."""
    stamps, files = known.column("metadata_stamp"), known.column("files")
    counts = pc.list_value_length(files)
    if metadata.is_empty:
        return all(
            pc.unique(stamps.filter(pc.equal(counts, count))).to_pylist() == [_empty_metadata_stamp(count, captions)]
            for count in pc.unique(counts).to_pylist()
        )
    by_uri = {file.uri: file for file in listing.recordings}
    uris = iter(pc.struct_field(pc.list_flatten(files), "uri").to_pylist())
    return all(
        stamp == metadata_stamp([metadata.stamp(by_uri[next(uris)]) for _ in range(count)], captions)
        for stamp, count in zip(stamps.to_pylist(), counts.to_pylist(), strict=True)
    )
