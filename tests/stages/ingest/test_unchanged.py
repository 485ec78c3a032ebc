"""The quick look at a source says that nothing changed exactly where the ledger, which looks at every row, says so."""

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as some

from schemas.records import REJECTS
from schemas.tables import TRACKS
from stages.ingest import take_in
from stages.ingest.index import Ledger
from stages.ingest.listing import File, Listing
from stages.ingest.metadata.fields import Fields
from stages.ingest.probe import Examined, Refused
from stages.ingest.unchanged import COLUMNS, stands_still
from stages.pipeline.contract import Reject

TAGS = Fields().to_json()
LISTED = some.dictionaries(some.sampled_from("abcdefgh"), some.integers(0, 12), max_size=8)
"""Names of recordings and what is in them; equal contents are one track, and 9 is refused."""
SIDECARS = some.dictionaries(some.sampled_from("abcdefgh"), some.integers(0, 2), max_size=3)


def _listing(recordings: dict[str, int], sidecars: dict[str, int]) -> Listing:
    files = [File(f"/m/{name}.wav", f"{name}.wav", str(content), 1) for name, content in sorted(recordings.items())]
    # Not one of these is there to be read, so each says one thing: that it cannot be opened.
    beside = [File(f"/m/{name}.json", f"{name}.json", str(stamp), 1) for name, stamp in sorted(sidecars.items())]
    return Listing(recordings=files, metadata=beside)


def _examined(content: int) -> Examined | Refused:
    if content == 9:
        return Refused("silent", "as asked")
    return Examined(f"{content:064x}", "wav", 16_000, 1, 16_000, -20.0, -1.0, 0.0, 0.0, TAGS)


def _night(rows: list[dict], rejects: dict[str, Reject], listing: Listing) -> tuple[list[dict], dict[str, Reject]]:
    ledger = Ledger(rows, listing, -1, 4, (0.1, 0.1))
    standing = _standing(rejects, listing)
    results = [(file, _examined(int(file.stamp))) for file in ledger.unread(standing)]
    for _ in take_in(ledger, standing, set(), results):
        pass
    return [row for shard in ledger.shards() for row in ledger.content(shard)[0]], standing


def _standing(rejects: dict[str, Reject], listing: Listing) -> dict[str, Reject]:
    stamps = {file.uri: file.stamp for file in listing.recordings}
    return {key: one for key, one in rejects.items() if stamps.get(key) == one.stamp}


def _nothing_to_do(rows: list[dict], rejects: dict[str, Reject], listing: Listing) -> bool:
    ledger, standing = Ledger(rows, listing, -1, 4, (0.1, 0.1)), _standing(rejects, listing)
    work = ledger.unread(standing) or ledger.without_file() or ledger.outdated()
    return not work and set(standing) == set(rejects)


@settings(max_examples=150, deadline=None)
@given(LISTED, SIDECARS, LISTED, SIDECARS, some.booleans())
def test_it_stands_still_exactly_where_the_ledger_finds_nothing_to_do(before, beside, after, beside_after, same):
    first = _listing(before, beside)
    rows, rejects = _night([], {}, first)
    second = first if same else _listing(after, beside_after)
    known = pa.Table.from_pylist([{name: row[name] for name in COLUMNS} for row in rows], _schema())
    refused = pa.Table.from_pylist([{"key": one.key, "uri": one.uri} for one in rejects.values()], REJECTS.schema)
    found = stands_still(second, known, _standing(rejects, second), refused)
    assert found == (bool(rows) and _nothing_to_do(rows, rejects, second))


def test_a_folder_that_cannot_be_read_is_no_standstill():
    listing = _listing({"a": 1}, {})
    rows, _ = _night([], {}, listing)
    known = pa.Table.from_pylist([{name: row[name] for name in COLUMNS} for row in rows], _schema())
    assert stands_still(listing, known, {}, REJECTS.schema.empty_table())
    listing.closed.append("/m/locked")
    assert not stands_still(listing, known, {}, REJECTS.schema.empty_table())


def _schema() -> pa.Schema:
    return pa.schema([TRACKS.schema.field(name) for name in COLUMNS])
