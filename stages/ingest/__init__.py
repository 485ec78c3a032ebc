"""Ingest: every recording under the source becomes a row of `tracks`, or of `rejects`.

A file whose URI, size and time (or ETag) have not changed is not read again. A file that is read is identified by its
encoded audio and measured. Its description comes from the tables, sidecars and manifests beside it and from its tags;
if only this metadata changes later, the row changes and no sound is read. The same content in two files is one track.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from schemas.licences import LicencePolicy
from schemas.storage.drafts import Drafts
from schemas.storage.take_downs import TakeDowns
from schemas.tables import PRINTS, TRACKS, WITHHELD, Row
from stages.ingest.acceptance import Acceptance, measured, needed_columns
from stages.ingest.choosing import Chosen
from stages.ingest.config import Config
from stages.ingest.duplicates import Prints, find_copies
from stages.ingest.fields import clean_text
from stages.ingest.index import COMPARED_COLUMNS, FILE_STATES, INDEX_COLUMNS, TrackIndex, is_unchanged
from stages.ingest.listing import File, Listing
from stages.ingest.metadata import SourceMetadata
from stages.ingest.probe import AudioProbe, Refused, probe_all
from stages.ingest.readings import READING, files_of, reading_row, result_of, unread_table
from stages.ingest.rules import Rules
from stages.ingest.sources import list_sources
from stages.pipeline.contract import NOT_ACCEPTED, Context, Reject, ShardUpdate, SourcePlan
from stages.pipeline.parts import Readings
from stages.pipeline.remarks import Remarks

__all__ = [
    "PLANNING_COLUMNS",
    "READING",
    "READS",
    "VERSION",
    "WRITES",
    "Config",
    "list_unread",
    "plan_source",
    "read_part",
    "read_source",
]

READS, WRITES, VERSION = (), TRACKS, 5

PLANNING_COLUMNS = (*COMPARED_COLUMNS, "warnings", "licence", "copies_of")
"""Columns of earlier runs' rows that are enough for `plan_source` if nothing has changed. Names and titles are left
out: for a million tracks they would take a tenth of its memory, and only serve as examples of the few copies."""

SAVE_EVERY = 128
"""Number of files after which results are written, so that a run that is killed loses little work."""


EXAMPLE_LENGTH = 200
"""Longest example in `remarks`, in characters."""


class RejectState(NamedTuple):
    """The parts of a reject that are compared to see whether it changed."""

    key: str
    kind: str
    stamp: str | None


def plan_source(config: Config, context: Context, known: pa.Table, refused: pa.Table) -> SourcePlan:
    """Count what `read_source` would do, from the listing and its metadata alone; no recording is opened.

    Raises:
        ValueError: there is no source, or nothing in it.
    """
    listing = _listing(config, context)
    metadata = SourceMetadata(listing.recordings, listing.metadata, context.store.location())
    drafts, rules = Drafts(context.store, TRACKS, context.fingerprint), _rules(config, context)
    withheld = _withheld(context, needed_columns(rules))
    chosen_from = drafts.read(columns=needed_columns(rules)) if rules.has_any or withheld.num_rows else known
    acceptance = Acceptance(rules, chosen_from, withheld)
    not_accepted, refused = _by_kind(refused)
    lasting = _lasting_rejects(listing, refused)
    recordings = measured(known, _withheld(context, PLANNING_COLUMNS))
    noted = source_remarks(listing, metadata, pc.list_flatten(recordings.column("warnings")).to_pylist())
    remark_licences(noted, config.licences, known.column("licence"))
    remark_copies(noted, known.column("copies_of"), drafts)
    remarks = noted.all()
    unchanged = is_unchanged(listing, metadata, recordings, lasting, refused, config.captions)
    uncompared = recordings.column("copies_of").null_count if config.near_duplicates is not None else 0
    if unchanged and not uncompared and acceptance.is_settled(not_accepted):
        return SourcePlan(0, known.num_rows, 0, remarks=remarks)
    rows = measured(drafts.read(columns=INDEX_COLUMNS), _withheld(context, INDEX_COLUMNS))
    index = _track_index(config, context, listing, metadata, rows)
    refused_before = set(refused.column("key").to_pylist())
    removed, outdated = set(index.removed()), index.outdated()
    outdated |= set(index.uncompared()) - removed if config.near_duplicates is not None else set()
    made = outdated | (acceptance.returning - removed)
    new_rejects = set(lasting) - refused_before
    gone_rejects = refused_before - set(lasting) - {file.uri for file in listing.recordings}
    new_reasons = acceptance.count_new_reasons(not_accepted, except_for=made | removed)
    return SourcePlan(
        make=len(index.unread(lasting)) + len(made) + len(new_rejects) + new_reasons,
        reuse=known.num_rows - acceptance.count_tracks(removed | outdated | acceptance.leaving),
        drop=len(removed | acceptance.leaving) + len(gone_rejects),
        remarks=remarks,
    )


def list_unread(config: Config, context: Context, known: pa.Table, refused: pa.Table) -> pa.Table:
    """Return the files that `read_source` would read, in its order, as rows of `UNREAD`.

    Args:
        known: the `files` of the rows of earlier runs; only `uri` and `stamp` are needed.

    Raises:
        ValueError: there is no source, or nothing in it.
    """
    listing = _listing(config, context)
    files = pc.list_flatten(measured(known, _withheld(context, FILE_STATES)).column("files"))
    uris, stamps = (pc.struct_field(files, name).to_pylist() for name in ("uri", "stamp"))
    read, rejects = set(zip(uris, stamps, strict=True)), _lasting_rejects(listing, refused)
    unread = [file for file in listing.recordings if (file.uri, file.stamp) not in read and file.uri not in rejects]
    return unread_table(unread)


def read_part(config: Config, context: Context, unread: pa.Table) -> Iterator[Row]:
    """Read some of the files of `list_unread`, and yield a row of `READING` for each. A failure that is not the file's
    fault yields nothing, because another machine may be able to read the file."""
    files = list(files_of(unread))
    context.progress.start("reading recordings", len(files), "tracks")
    settings = context.settings
    for file, result in probe_all(
        files, config.limits, settings.workers, context.check_stopped, at_once=settings.concurrency
    ):
        if isinstance(result, AudioProbe) or result.lasting:
            yield reading_row(file, result)
        context.progress.advance()


def read_source(config: Config, context: Context, known: pa.Table, refused: pa.Table) -> Iterator[ShardUpdate]:
    """Yield each shard that changes, as soon as it must be written.

    Raises:
        ValueError: there is no source, or nothing in it.
    """
    listing = _listing(config, context)
    metadata = SourceMetadata(listing.recordings, listing.metadata, context.store.location())
    withheld = _withheld(context)
    acceptance = Acceptance(_rules(config, context), known, withheld)
    rows = measured(known.select(INDEX_COLUMNS), withheld.select(INDEX_COLUMNS))
    index = _track_index(config, context, listing, metadata, rows)
    index.require(acceptance.shards)
    rejects = _lasting_rejects(listing, refused)
    recorded = {RejectState(row["key"], row["kind"], row["stamp"]) for row in refused.to_pylist()}
    unread = index.unread(rejects)
    acceptance.enter_rejects(rejects)
    readings = Readings(context)
    context.progress.start("entering recordings" if readings else "reading recordings", len(unread), "tracks")
    prints = Prints(context.store, context.fingerprint)

    def probes() -> Iterator[tuple[File, AudioProbe | Refused]]:
        is_kept = [(file.uri, file.stamp) in readings for file in unread]
        others = [file for file, kept in zip(unread, is_kept, strict=True) if not kept]
        fresh = probe_all(others, config.limits, context.settings.workers, context.check_stopped)
        with closing(fresh):
            for file, kept in zip(unread, is_kept, strict=True):
                context.check_stopped()
                result = result_of(readings.take((file.uri, file.stamp))) if kept else next(fresh)[1]
                if isinstance(result, AudioProbe):
                    prints.add(result)
                yield file, result
                context.progress.advance()

    def update_of(shard: int) -> Iterator[ShardUpdate]:
        rows, new = index.take_shard(shard)
        # The index has only some columns of all rows. Whole rows would take gigabytes for a million tracks, so they are
        # made for one shard at a time.
        of_shard = [table.filter(pc.equal(table["shard"], shard)).to_pylist() for table in (withheld, known)]
        before = {row["track_id"]: row for written in of_shard for row in written}
        division = acceptance.divide(shard, [{**before.get(row["track_id"], {}), **row} for row in rows], rejects)
        counted = new | division.made
        made = sum(row["track_id"] in counted for row in division.accepted)
        print_rows = prints.of_shard(shard, [row["track_id"] for row in rows])
        also: dict[str, Sequence[Row]] = {} if print_rows is None else {PRINTS.name: print_rows}
        if division.returning:
            first = {**also, WITHHELD.name: [*division.withheld, *division.returning]}
            yield ShardUpdate(shard, division.accepted, made, list(rejects.values()), first)
            made = 0
        also |= {WITHHELD.name: division.withheld} if division.has_withheld else {}
        yield ShardUpdate(shard, division.accepted, made, list(rejects.values()), also)

    for shard in update_shards(index, rejects, recorded, probes()):
        yield from update_of(shard)
    if config.near_duplicates is not None:
        new = index.uncompared()
        copies: dict[str, list[str]] = {track_id: [] for track_id in new}
        for track_id, original in find_copies(context, prints, new, config.near_duplicates):
            copies[track_id].append(original)
        report_moved(context, index, index.enter_copies(copies))
        for shard in reversed(index.refresh(index.shards())):
            yield from update_of(shard)
    context.store.sweep(context.store.folder(PRINTS, context.fingerprint))
    context.store.sweep(context.store.folder(WITHHELD, context.fingerprint))
    readings.clear()
    warnings = [warning for row in index.rows.values() for warning in row["warnings"] or ()]
    context.remarks.update(source_remarks(listing, metadata, warnings))
    drafts = Drafts(context.store, TRACKS, context.fingerprint)
    tracks = drafts.read(columns=["licence", "copies_of"])
    remark_licences(context.remarks, config.licences, tracks.column("licence"))
    remark_copies(context.remarks, tracks.column("copies_of"), drafts)


def update_shards(
    index: TrackIndex,
    rejects: dict[str, Reject],
    recorded: set[RejectState],
    results: Iterable[tuple[File, AudioProbe | Refused]],
    save_every: int = SAVE_EVERY,
) -> Iterator[int]:
    """Enter what was read into `index` and `rejects`, and yield the number of each shard when it must be written.

    The last shard is written when it is full and after every `save_every` files. At the end all changed shards are
    written, the last one first: if an earlier shard lost a row before that, a run that was killed in between would find
    room there.

    Args:
        rejects: the rejects that hold for the listing, by key; new ones are added.
        recorded: the states of the rejects that the store holds.
        results: each file that was read, with its result.
    """
    index.refresh(index.shards())  # a new track's split depends on the artists of all tracks
    unsaved = 0
    for file, result in results:
        filled = False
        if isinstance(result, Refused):
            stamp = file.stamp if result.lasting else None
            rejects[file.uri] = Reject(file.uri, file.uri, result.kind, result.message, stamp)
        else:
            filled = index.add(file, result) and index.is_full(index.last_shard)
        unsaved += 1
        if filled or unsaved == save_every:
            unsaved, recorded = 0, reject_states(rejects.values())
            index.refresh([max(index.last_shard, 0)])
            yield max(index.last_shard, 0)
    index.drop_removed()
    stale = index.refresh(index.shards())
    if not stale and recorded != reject_states(rejects.values()):
        stale = [max(index.last_shard, 0)]
    yield from reversed(stale)


def source_remarks(listing: Listing, metadata: SourceMetadata, warnings: Iterable[str]) -> Remarks:
    """Return the remarks on a source: what was skipped in it, metadata that describes no recording, and what was
    wrong with the metadata of its tracks.

    Args:
        warnings: the warnings of all tracks.
    """
    remarks = Remarks()
    for source in (listing.remarks, metadata.remarks):
        for remark in source.all():
            examples = [clean_text(example)[:EXAMPLE_LENGTH] for example in remark.examples]
            remarks.add_all(remark.what, clean_text(remark.location)[:EXAMPLE_LENGTH], examples, remark.count)
    table_problems, locations = metadata.problems, {clean_text(location)[:200] for location in metadata.locations}
    for warning, count in sorted(Counter(warning for warning in warnings if warning not in table_problems).items()):
        where, kind = _warning_kind(warning, locations)
        remarks.add_all(kind, where, [warning[:EXAMPLE_LENGTH]], count)
    return remarks


def remark_copies(remarks: Remarks, copies_of: pa.ChunkedArray, drafts: Drafts) -> None:
    """Add a remark on the tracks that are copies of others by their sound.

    Args:
        copies_of: that column of all tracks.
        drafts: where the titles are; they are read only if there are copies.
    """
    count = pc.sum(_are_copies(copies_of)).as_py() or 0
    examples = []
    if count:
        tracks = drafts.read(columns=["track_id", "title", "copies_of"])
        copies = tracks.filter(_are_copies(tracks.column("copies_of"))).sort_by("track_id")
        rows = copies.slice(0, Remarks.EXAMPLES).select(["track_id", "title"]).to_pylist()
        examples = [clean_text(row["title"] or row["track_id"][:12])[:EXAMPLE_LENGTH] for row in rows]
    remarks.add_all("tracks that sound like copies of others, and are in the same split", "", examples, count)


def _are_copies(copies_of: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.greater(pc.list_value_length(copies_of), 0)


def report_moved(context: Context, index: TrackIndex, moved: Mapping[str, str]) -> None:
    """Tell the user which earlier recordings are in another split now because of new ones that are copies.

    Args:
        moved: the split that each recording was in, by its `track_id`.
    """
    if moved:
        examples = [
            f"{track_id[:12]} ({moved[track_id]} to {index.rows[track_id]['split']})" for track_id in sorted(moved)
        ]
        recordings = "recordings move" if len(moved) > 1 else "recording moves"
        lead = f"{len(moved)} {recordings} to another split, because of new recordings that sound like copies: "
        context.progress.tell([lead + ", ".join(examples[:3])])


def remark_licences(remarks: Remarks, policy: LicencePolicy, licences: pa.ChunkedArray) -> None:
    """Add a remark on the tracks whose licences are unknown, if the policy lets them pass."""
    if not policy.asks:
        return
    counts = {each["values"]: each["counts"] for each in pc.value_counts(licences).to_pylist()}
    unknown = sorted((text for text in counts if policy.is_unknown(text)), key=str)
    examples = [clean_text(text)[:EXAMPLE_LENGTH] if text else "none" for text in unknown]
    count = sum(counts[text] for text in unknown)
    remarks.add_all("tracks with an unknown licence, which licences.unknown accepts", "", examples, count)


def _rules(config: Config, context: Context) -> Rules:
    return Rules(config.accept, config.licences, TakeDowns(context.store).reasons)


def _warning_kind(warning: str, locations: Collection[str]) -> tuple[str, str]:
    """Return where a track's warning comes from (a table or manifest, `tags`, or empty), and its kind: the part of the
    sentence that says what was expected, without what was found."""
    kind = re.fullmatch(r"(?:(.*?): )?((?:\w+: )?expected .*?)(?:, got .*)?", warning)
    if kind is None:
        return "", "other warnings of tracks"
    where = (kind[1] or "").removesuffix(":")
    return where if where in locations or where == "tags" else "", kind[2]


def _withheld(context: Context, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of `withheld` of earlier runs, with all columns or some."""
    return context.store.read(WITHHELD, context.fingerprint, columns=columns)


def _by_kind(refused: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Return the rejects of recordings that were measured but not accepted, and all other rejects."""
    is_choice = pc.equal(refused["kind"], NOT_ACCEPTED)
    return refused.filter(is_choice), refused.filter(pc.invert(is_choice))


def _listing(config: Config, context: Context) -> Listing:
    sources = context.settings.sources
    if not sources:
        raise ValueError("expected a folder or URL of recordings, got none: give one with --source")
    return list_sources(sources, context.store.url, Chosen(config.include, config.exclude))


def _track_index(
    config: Config, context: Context, listing: Listing, metadata: SourceMetadata, known: pa.Table
) -> TrackIndex:
    """Return an index that compares the rows of earlier runs (their `INDEX_COLUMNS`) with the source as it is now."""
    written = [int(shard) for shard in Drafts(context.store, TRACKS, context.fingerprint).shards()]
    shares = (config.valid, config.test)
    return TrackIndex(
        known.to_pylist(), listing, metadata, max(written, default=-1), config.shard_size, shares, config.captions
    )


def _lasting_rejects(listing: Listing, refused: pa.Table) -> dict[str, Reject]:
    """Return the rejects that hold for the listing, by key: its own, and those of earlier runs whose files did not
    change or are in a folder that cannot be read now."""
    lasting = {reject.key: reject for reject in listing.rejects}
    rows = [row for row in refused.to_pylist() if row["kind"] != NOT_ACCEPTED]
    uris = {row["uri"] for row in rows}
    stamps = {file.uri: file.stamp for file in listing.recordings if file.uri in uris} if uris else {}
    for row in rows:
        same_file = row["stamp"] is not None and stamps.get(row["uri"]) == row["stamp"]
        if same_file or listing.is_in_unreadable_folder(row["uri"]):
            lasting[row["key"]] = Reject(row["key"], row["uri"], row["kind"], row["message"], row["stamp"])
    return lasting


def reject_states(rejects: Iterable[Reject]) -> set[RejectState]:
    return {RejectState(reject.key, reject.kind, reject.stamp) for reject in rejects}
