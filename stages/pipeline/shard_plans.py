"""What is stale of a stage that maps: which of its shards must be made, by footers alone, and which rows of them.

A shard is done if and only if its footer's `input_key` is the identity of the keys that it would be made from now.
"""

from collections.abc import Iterable, Mapping
from types import ModuleType

import pyarrow as pa

from schemas import Store
from schemas.drafts import Drafts
from schemas.identity import fingerprint, keys_digest
from schemas.row_files import absent_files, file_columns
from schemas.shards import Footer, Rows, output_keys, row_keys
from schemas.tables import REJECTS, Table
from stages.pipeline.contract import Context
from stages.pipeline.keys import driver_of, driving_key, outdated_keys, repeated_columns, wanted_keys
from stages.pipeline.plans import ConfiguredStage, Content, Plan


def consulted_digest(module: ModuleType, context: Context) -> str | None:
    """Return the digest of what a stage may look up, so that what it refused is tried again once that changed."""
    tables = [table for table in getattr(module, "CONSULTS", ()) if table.name in context.versions]
    contents = {}
    for table in tables:
        version = context.versions[table.name]
        footers = [context.store.footer(table, version, shard) for shard in context.store.shards(table, version)]
        contents[table.name] = [footer.content for footer in footers if footer]
    return fingerprint(contents) if tables else None


def plan_shards(stage: ConfiguredStage, context: Context, contents: Mapping[str, Content]) -> Plan:
    store, module = context.store, stage.module
    source, version = module.READS[0], context.versions[module.READS[0].name]
    planned = contents.get(source.name)
    drafts = Drafts(store, module.WRITES, context.fingerprint)
    existing, in_work = drafts.footers(), drafts.rows_in_work()
    wanted = store.shards(source, version) if planned is None else list(planned)
    consulted = consulted_digest(module, context)
    columns = [*file_columns(module.WRITES), *repeated_columns(module)]
    looked_into = bool(module.WRITES.files or repeated_columns(module))
    jobs, make, reuse, drop, refused, reason = [], 0, 0, 0, 0, ""
    content: dict[str, Rows] = {}
    missing: list[tuple[str, ...]] = []
    for shard in wanted:
        read, written = _output_key(store, source, version, shard, planned), existing.get(shard)
        if read is None:
            continue
        up_to_date = written is not None and written.input_key == read
        outputs = drafts.read([shard], columns) if written and (looked_into or not up_to_date) else None
        stale = _stale_rows(module, context, shard, outputs, contents) if outputs is not None else {}
        if up_to_date and written and not stale and not _try_again(context, shard, written, consulted):
            reuse, refused = reuse + written.rows, refused + written.refused
            if planned is not None:
                content[shard] = drafts.read([shard], module.WRITES.key)
            continue
        jobs.append(shard)
        reason = reason or next(iter(stale.values()), "")
        names = [*driving_key(module), *([source.copies] if source.copies else [])]
        rows = store.read(source, version, [shard], names) if planned is None else planned[shard]
        standing = _standing_refusals(context, shard, consulted)
        inputs = {key for key in wanted_keys(module, rows) if driver_of(module, key) not in standing}
        if outputs is None and written:
            outputs = drafts.read([shard], columns)
        keys = row_keys(outputs, module.WRITES.key) if outputs is not None else []
        kept = (set(keys) - stale.keys() | set(in_work.get(shard, ()))) & inputs
        if looked_into:
            found = drafts.find_replaced(inputs - kept)
            kept |= (
                set(row_keys(found, module.WRITES.key)) - _stale_rows(module, context, shard, found, contents).keys()
            )
        else:
            kept |= drafts.replaced_keys(inputs - kept)
        make, reuse, drop = make + len(inputs - kept), reuse + len(kept), drop + len(set(keys) - kept)
        if source.copies:
            missing += sorted(inputs - kept)
        if planned is not None:
            content[shard] = rows_of_keys(module.WRITES, inputs)
    gone = tuple(shard for shard in existing if shard not in wanted)
    drop += sum(existing[shard].rows for shard in gone)
    known = content if planned is not None else None
    return Plan(
        stage.name, tuple(jobs), gone, make, reuse, drop, refused, reason, content=known, missing=tuple(missing)
    )


def rows_of_keys(table: Table, keys: Iterable[tuple[str, ...]]) -> list[dict[str, str]]:
    """Return rows of a table with nothing but their keys."""
    return [dict(zip(table.key, key, strict=True)) for key in sorted(keys)]


def _output_key(store: Store, table: Table, version: str, shard: str, planned: Content | None) -> str | None:
    """Return the identity of what is made from a shard, as it will be by then; None where it is not there."""
    if planned is not None:
        return keys_digest(output_keys(table, planned[shard]))
    footer = store.footer(table, version, shard)
    return footer.output_key if footer else None


def _standing_refusals(context: Context, shard: str, consulted: str | None) -> set[tuple[str, ...]]:
    """Return the keys of what was refused in a shard for a reason that stands, so that it is not tried again."""
    columns = ["key", "stamp", "passing"]
    return {
        tuple(row["key"].split("/"))
        for row in context.store.read(REJECTS, context.fingerprint, [shard], columns).to_pylist()
        if row["stamp"] == consulted and not row["passing"]
    }


def _stale_rows(
    module: ModuleType, context: Context, shard: str, rows: pa.Table, contents: Mapping[str, Content]
) -> dict[tuple[str, ...], str]:
    """Return the rows of a shard that are to be made again though their keys are wanted: by key, with the reason."""
    stale = {}
    if module.WRITES.files:
        absent = absent_files(context.store, module.WRITES, rows)
        keys = row_keys(rows, module.WRITES.key)
        stale = {key: problem for key, problem in zip(keys, absent, strict=True) if problem}
    inputs: dict[str, Rows] = {}
    for table, names in getattr(module, "REPEATS", {}).items():
        planned = contents.get(table.name, {}).get(shard)
        version = context.versions[table.name]
        inputs[table.name] = (
            context.store.read(table, version, [shard], [*table.key, *names]) if planned is None else planned
        )
    return dict.fromkeys(outdated_keys(module, rows, inputs), "what it repeats has changed") | stale


def _try_again(context: Context, shard: str, written: Footer, consulted: str | None) -> bool:
    """Return whether some of what was refused may pass now: for a reason that has passed, or with other tables to look
    things up in."""
    if written.passing or not written.refused or consulted is None:
        return bool(written.passing)
    stamps = context.store.read(REJECTS, context.fingerprint, [shard], ["stamp"]).column("stamp").to_pylist()
    return any(stamp != consulted for stamp in stamps)
