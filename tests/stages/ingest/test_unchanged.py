"""The quick check of a source finds no change exactly when the index, which looks at every row, finds none."""

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as some

from schemas.tables import REJECTS, TRACKS, selected
from stages.ingest import update_shards
from stages.ingest.fields import Fields
from stages.ingest.index import COMPARED_COLUMNS, TrackIndex, is_unchanged
from stages.ingest.listing import File, Listing
from stages.ingest.metadata import SourceMetadata
from stages.ingest.probe import AudioProbe, Refused
from stages.pipeline.contract import Reject
from tests.worlds.ingest_world import MEASURES

TAGS = Fields().to_json()
LISTED = some.dictionaries(some.sampled_from("abcdefgh"), some.integers(0, 12), max_size=8)
"""Names of recordings and their contents; equal contents are one track, and 9 is refused."""
SIDECARS = some.dictionaries(some.sampled_from("abcdefgh"), some.integers(0, 2), max_size=3)


def _listing(recordings: dict[str, int], sidecars: dict[str, int]) -> Listing:
    files = [File(f"/m/{name}.wav", f"{name}.wav", str(content), 1) for name, content in sorted(recordings.items())]
    # None of these files exists, so each gives one warning: that it cannot be opened.
    beside = [File(f"/m/{name}.json", f"{name}.json", str(stamp), 1) for name, stamp in sorted(sidecars.items())]
    return Listing(recordings=files, metadata=beside)


def _metadata(listing: Listing) -> SourceMetadata:
    return SourceMetadata(listing.recordings, listing.metadata)


def _probe(content: int) -> AudioProbe | Refused:
    if content == 9:
        return Refused("silent", "as asked")
    return AudioProbe(f"{content:064x}", "wav", 16_000, 1, 16_000, **MEASURES, tags=TAGS)


def _night(rows: list[dict], rejects: dict[str, Reject], listing: Listing) -> tuple[list[dict], dict[str, Reject]]:
    index = TrackIndex(rows, listing, _metadata(listing), -1, 4, (0.1, 0.1))
    lasting = _lasting(rejects, listing)
    results = [(file, _probe(int(file.stamp))) for file in index.unread(lasting)]
    for _ in update_shards(index, lasting, set(), results):
        pass
    return [row for shard in index.shards() for row in index.take_shard(shard)[0]], lasting


def _lasting(rejects: dict[str, Reject], listing: Listing) -> dict[str, Reject]:
    stamps = {file.uri: file.stamp for file in listing.recordings}
    return {key: reject for key, reject in rejects.items() if stamps.get(key) == reject.stamp}


def _nothing_to_do(rows: list[dict], rejects: dict[str, Reject], listing: Listing) -> bool:
    index = TrackIndex(rows, listing, _metadata(listing), -1, 4, (0.1, 0.1))
    lasting = _lasting(rejects, listing)
    work = index.unread(lasting) or index.removed() or index.outdated()
    return not work and set(lasting) == set(rejects)


@settings(max_examples=150, deadline=None)
@given(LISTED, SIDECARS, LISTED, SIDECARS, some.booleans())
def test_a_source_is_unchanged_exactly_if_the_index_finds_nothing_to_do(before, beside, after, beside_after, same):
    first = _listing(before, beside)
    rows, rejects = _night([], {}, first)
    second = first if same else _listing(after, beside_after)
    known = pa.Table.from_pylist(list(rows), selected(TRACKS.schema, COMPARED_COLUMNS))
    refused = pa.Table.from_pylist(
        [{"key": reject.key, "uri": reject.uri} for reject in rejects.values()], REJECTS.schema
    )
    unchanged = is_unchanged(second, _metadata(second), known, _lasting(rejects, second), refused)
    assert unchanged == (bool(rows) and _nothing_to_do(rows, rejects, second))


def test_a_source_with_an_unreadable_folder_is_not_unchanged():
    listing = _listing({"a": 1}, {})
    rows, _ = _night([], {}, listing)
    known = pa.Table.from_pylist(list(rows), selected(TRACKS.schema, COMPARED_COLUMNS))
    assert is_unchanged(listing, _metadata(listing), known, {}, REJECTS.schema.empty_table())
    listing.unreadable_folders.append("/m/locked")
    assert not is_unchanged(listing, _metadata(listing), known, {}, REJECTS.schema.empty_table())


def test_all_files_are_compared_in_small_steps_too(monkeypatch):
    monkeypatch.setattr("stages.ingest.index.COMPARED_AT_ONCE", 2)
    contents = {name: number for number, name in enumerate("abcde")}
    rows, _ = _night([], {}, _listing(contents, {}))
    known = pa.Table.from_pylist(list(rows), selected(TRACKS.schema, COMPARED_COLUMNS))
    for changed in ({}, *({name: 8} for name in contents)):
        listing = _listing(contents | changed, {})
        unchanged = is_unchanged(listing, _metadata(listing), known, {}, REJECTS.schema.empty_table())
        assert unchanged == (not changed)
