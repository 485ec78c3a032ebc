"""Whether a source is just as the rows of earlier runs say, which on most nights it is, of a million recordings too.

The ledger would answer as well, but it takes all rows apart in memory. Here columns are compared as columns.
"""

import pyarrow as pa
import pyarrow.compute as pc

from stages.ingest.index import metadata_stamp, silent_stamp
from stages.ingest.listing import Listing
from stages.ingest.metadata.sources import Sources
from stages.pipeline.contract import Reject

COLUMNS = ("files", "metadata_stamp")
"""The columns of `tracks` that are compared."""


def stands_still(listing: Listing, known: pa.Table, standing: dict[str, Reject], refused: pa.Table) -> bool:
    """Nothing is new, gone or changed: neither recordings, nor what is said of them, nor what was refused.

    Args:
        known: `COLUMNS` of the rows of earlier runs.
        standing: the rejects that hold for this listing, by key.
        refused: the rejects of earlier runs.
    """
    if listing.closed or set(standing) != set(refused.column("key").to_pylist()):
        return False
    read = [file for file in listing.recordings if file.uri not in standing] if standing else listing.recordings
    places = pc.list_flatten(known.column("files"))
    if not known.num_rows or len(read) != len(places):
        return False
    read_before = pa.table({name: pc.struct_field(places, name) for name in ("uri", "stamp")}).sort_by("uri")
    # A listing is in the order of its URIs, and text sorts in Arrow as it does in Python.
    read_now = {"uri": [file.uri for file in read], "stamp": [file.stamp for file in read]}
    if not all(read_before.column(name).equals(pa.chunked_array([values])) for name, values in read_now.items()):
        return False
    return _said_is_as_it_was(listing, known)


def _said_is_as_it_was(listing: Listing, known: pa.Table) -> bool:
    """Every row's stamp of its metadata is what the metadata of its files gives now."""
    sources = Sources(listing.recordings, listing.metadata)
    stamps, files = known.column("metadata_stamp"), known.column("files")
    if sources.silent:
        expected = pa.array([silent_stamp(count) for count in pc.list_value_length(files).to_pylist()])
        return bool(pc.all(pc.equal(stamps.combine_chunks(), expected)).as_py())
    by_uri = {file.uri: file for file in listing.recordings}
    uris = iter(pc.struct_field(pc.list_flatten(files), "uri").to_pylist())
    return all(
        stamp == metadata_stamp([sources.stamp(by_uri[next(uris)]) for _ in range(count)])
        for stamp, count in zip(stamps.to_pylist(), pc.list_value_length(files).to_pylist(), strict=True)
    )
