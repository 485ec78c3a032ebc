"""Ingest: every recording under the source becomes a row of `tracks`, or of `rejects`.

A file whose place, size and time (or ETag) are as they were is not read again. Files that are read are identified by
their encoded audio, measured, and described by what tables, sidecars, manifests and tags say of them; metadata that
changed later changes the row and reads no sound. The same content in two places is one track.
"""

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

import schemas
from schemas.tables import TRACKS
from stages.ingest.index import NEEDED, Ledger
from stages.ingest.listing import File, Listing, list_source
from stages.ingest.pool import examine_all
from stages.ingest.probe import Examined, Limits, Refused
from stages.ingest.unchanged import COLUMNS, stands_still
from stages.pipeline.contract import Context, Reject, ShardUpdate, SourcePlan

READS, WRITES, VERSION = (), TRACKS, 1

PLANNING_COLUMNS = COLUMNS
"""All that `plan_source` needs of the rows that are there, where nothing has changed."""

SAVE_EVERY = 128
"""Files after which what was read is written down, so that a run that is killed has not read for nothing."""


class Config(schemas.Config):
    """Which recordings are taken, and how they are parted."""

    limits: Limits = Limits()
    """Which recordings are taken."""
    shard_size: int = Field(default=512, ge=1)
    """Tracks in a shard: the unit of work of every stage after this one."""
    valid: float = Field(default=0.05, ge=0, le=0.5)
    """Share of artists (of tracks, where no artist is known) in the split `valid`."""
    test: float = Field(default=0.05, ge=0, le=0.5)
    """Share of artists (of tracks, where no artist is known) in the split `test`."""


def plan_source(config: Config, context: Context, known: pa.Table, refused: pa.Table) -> SourcePlan:
    """What `read_source` would do, from the listing and its metadata alone; no recording is opened."""
    listing = _list(context)
    standing = _standing(listing, refused)
    if stands_still(listing, known, standing, refused):
        return SourcePlan(0, known.num_rows, 0)
    ledger = _open(config, context, listing, context.store.read(TRACKS, context.fingerprint, columns=NEEDED))
    before = refused.to_pylist()
    unread, drop, changed = ledger.unread(standing), len(ledger.without_file()), ledger.outdated()
    here = {file.uri for file in ledger.listing.recordings}
    news = set(standing) - {row["key"] for row in before}
    lost = {row["key"] for row in before} - set(standing) - here
    return SourcePlan(len(unread) + changed + len(news), len(ledger.rows) - drop - changed, drop + len(lost))


def read_source(config: Config, context: Context, known: pa.Table, refused: pa.Table) -> Iterator[ShardUpdate]:
    """The shards that change, each as it becomes.

    Raises:
        ValueError: there is no source, or nothing in it.
    """
    listing = _list(context)
    ledger, rejects = _open(config, context, listing, known.select(NEEDED)), _standing(listing, refused)
    recorded = {(row["key"], row["kind"], row["stamp"]) for row in refused.to_pylist()}
    unread = ledger.unread(rejects)
    context.progress.start("reading recordings", len(unread), "tracks")

    def examined() -> Iterator[tuple[File, Examined | Refused]]:
        for found in examine_all(unread, config.limits, context.settings.workers, context.check_stopped):
            yield found
            context.progress.advance()

    for shard in take_in(ledger, rejects, recorded, examined()):
        rows, made = ledger.content(shard)
        # The ledger goes through all rows, and a million whole ones would take gigabytes.
        whole = {row["track_id"]: row for row in known.filter(pc.equal(known["shard"], shard)).to_pylist()}
        content = [{**whole.get(row["track_id"], {}), **row} for row in rows]
        yield ShardUpdate(shard, content, made, list(rejects.values()))


def take_in(
    ledger: Ledger,
    rejects: dict[str, Reject],
    recorded: set[tuple[str, str, str | None]],
    results: Iterable[tuple[File, Examined | Refused]],
    save_every: int = SAVE_EVERY,
) -> Iterator[int]:
    """Enter what was read into `ledger` and `rejects`, and tell which shards to write, and when.

    The last shard is written whenever it is full and every `save_every` files. At the end come all that changed, the
    last one first: were an earlier one to lose a row before that, a run killed in between would find room there.

    Args:
        recorded: key, kind and stamp of the rejects that the store holds.
    """
    since = 0
    for file, result in results:
        filled = False
        if isinstance(result, Refused):
            stamp = file.stamp if result.lasting else None
            rejects[file.uri] = Reject(file.uri, file.uri, result.kind, result.message, stamp)
        else:
            filled = ledger.add(file, result) and ledger.is_full(ledger.last_shard)
        since += 1
        if filled or since == save_every:
            since, recorded = 0, _entries(rejects)
            ledger.refresh(max(ledger.last_shard, 0))
            yield max(ledger.last_shard, 0)
    ledger.drop()
    stale = [shard for shard in ledger.shards() if ledger.refresh(shard)]
    if not stale and recorded != _entries(rejects):
        stale = [max(ledger.last_shard, 0)]
    yield from reversed(stale)


def _list(context: Context) -> Listing:
    source = context.settings.source
    if source is None:
        raise ValueError("expected a folder or URL of recordings, got none: name it by --source")
    return list_source(source, context.store.url)


def _open(config: Config, context: Context, listing: Listing, known: pa.Table) -> Ledger:
    """The rows as they were (`NEEDED` of them), against the source as it is."""
    written = [int(shard) for shard in context.store.shards(TRACKS, context.fingerprint)]
    shares = (config.valid, config.test)
    return Ledger(known.to_pylist(), listing, max(written, default=-1), config.shard_size, shares)


def _standing(listing: Listing, refused: pa.Table) -> dict[str, Reject]:
    """The rejects that hold for what is listed: those of the listing itself, and earlier ones of files that are as they
    were."""
    standing = {reject.key: reject for reject in listing.rejects}
    rows = refused.to_pylist()
    places = {row["uri"] for row in rows}
    stamps = {file.uri: file.stamp for file in listing.recordings if file.uri in places} if places else {}
    for row in rows:
        lasts = row["stamp"] is not None and stamps.get(row["uri"]) == row["stamp"]
        if lasts or listing.is_closed(row["uri"]):
            standing[row["key"]] = Reject(row["key"], row["uri"], row["kind"], row["message"], row["stamp"])
    return standing


def _entries(rejects: dict[str, Reject]) -> set[tuple[str, str, str | None]]:
    return {(one.key, one.kind, one.stamp) for one in rejects.values()}
