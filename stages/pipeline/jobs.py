"""Jobs: one shard of a stage, or a whole stage that is not made shard by shard.

Around the stage's own function, a job reads the input, reuses rows, and writes the result as drafts, which no view
shows. Rows of a shard in work are saved in parts beside it, so that little is lost whatever ends the run. A remote
store is asked whether it accepts files before anything is computed.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from schemas.identity import keys_digest
from schemas.storage.drafts import Drafts
from schemas.storage.row_files import absent_files
from schemas.storage.shards import distinct, output_keys, row_keys
from schemas.tables import REJECTS, REMARKS, TABLES, Table
from stages.pipeline.contract import Context, Reject, Shard
from stages.pipeline.keys import driver_of, driving_key, is_staged, outdated_keys, wanted_keys
from stages.pipeline.loans import lending
from stages.pipeline.memory import give_back_memory_regularly
from stages.pipeline.parts import PART, read_part
from stages.pipeline.pipeline import data_digest
from stages.pipeline.planning import reduced_shard
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.remarks import Remarks
from stages.pipeline.shard_plans import consulted_digest
from stages.pipeline.threads import computing_threads

SAVE_SECONDS, SAVE_SHARE = 2.0, 20
"""Rows of a shard in work are saved once making them took at least this many seconds, and at least this many times as
long as the last save took. A row that takes longer is saved at once."""


@dataclass(frozen=True)
class Counts:
    """The result of a job or a stage, counted in rows."""

    made: int = 0
    reused: int = 0
    refused: int = 0
    passing: int = 0
    """How many of the refused items the next run tries again."""

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.made + other.made,
            self.reused + other.reused,
            self.refused + other.refused,
            self.passing + other.passing,
        )


@dataclass(frozen=True)
class JobResult:
    """The result of one job: its counts, or the error that ended it."""

    job: str
    counts: Counts = Counts()
    error: Exception | None = None


def run_job(stage: ConfiguredStage, context: Context, job: str) -> Counts:
    """Do one job of a plan: a shard, a whole stage that is not made shard by shard, or a part of a source. Doing a job
    twice, even at the same time, gives the same result.

    Raises:
        ValueError: a table that the stage reads does not exist, or the stage broke its contract.
    """
    _check_input(stage, context)
    with lending((context.store.url, context.stage, context.fingerprint, context.settings.device)) as loans:
        counts = _do_job(stage, replace(context, remarks=Remarks(), loans=loans), job)
    context.progress.end_job()
    return counts


def _do_job(stage: ConfiguredStage, context: Context, job: str) -> Counts:
    if hasattr(stage.module, "plan_source"):
        if job.startswith(PART):
            context.store.check_accepts_files()
            read_part(stage, context, job)
            return Counts()
        return _run_source(stage, context)
    if hasattr(stage.module, "reduce"):
        with computing_threads(context.settings):
            return _run_reduce(stage, context)
    with computing_threads(context.settings, context.settings.concurrency):
        return _run_shard(stage, context, job)


def _check_input(stage: ConfiguredStage, context: Context) -> None:
    """Check that every table that a stage must read exists.

    Raises:
        ValueError: a table does not exist.
    """
    for table in stage.module.READS:
        if table in getattr(stage.module, "OPTIONAL", ()) or table.name not in context.versions:
            continue
        if not table.accumulates and not context.store.shards(table, context.versions[table.name]):
            raise ValueError(
                f"expected the table {table.name} (version {context.versions[table.name]}) for {stage.name}, got "
                f"nothing in {context.store.url}: run the stage that makes it first, with the same preset and settings"
            )


def _run_shard(stage: ConfiguredStage, context: Context, shard: str) -> Counts:
    """Make the missing rows of one shard and write the shard, with its rejects and remarks, as a draft. Rows of the
    earlier shard, of its parts and of the history are reused if they are still wanted and right."""
    store, module = context.store, stage.module
    drafts = Drafts(store, module.WRITES, context.fingerprint)
    inputs = [store.read(table, context.versions[table.name], [shard]) for table in module.READS]
    consulted, drivers = consulted_digest(module, context), row_keys(inputs[0], driving_key(module))
    wanted = set(wanted_keys(module, inputs[0]))
    rejects = [
        reject
        for reject in store.read(REJECTS, context.fingerprint, [shard]).to_pylist()
        if reject["stamp"] == consulted and not reject["passing"] and _key_of(reject["key"]) in set(drivers)
    ]
    refused = {_key_of(reject["key"]) for reject in rejects}

    earlier = distinct(module.WRITES, [drafts.read([shard]), drafts.parts(shard)])
    by_name = {table.name: rows for table, rows in zip(module.READS, inputs, strict=True)}
    outdated = outdated_keys(module, earlier, by_name)
    kept = _still_good(context, module.WRITES, earlier, wanted - outdated)
    missing = wanted - set(row_keys(kept, module.WRITES.key))
    missing = {key for key in missing if driver_of(module, key) not in refused}
    returning = drafts.find_replaced(missing)
    outdated = outdated_keys(module, returning, by_name)
    kept = pa.concat_tables([kept, _still_good(context, module.WRITES, returning, wanted - outdated)])

    kept_keys = frozenset(row_keys(kept, module.WRITES.key))
    unfinished = {driver_of(module, key) for key in missing - kept_keys}
    todo = inputs[0].filter(pa.array([key in unfinished for key in drivers], pa.bool_()))
    work = _ShardInWork(context, drafts, shard, consulted, rejects)
    if todo.num_rows:
        store.check_accepts_files()
        work.take(module.shard(stage.config, replace(context, kept=kept_keys), todo, *inputs[1:]))
    made = work.made()
    _check_result(stage, wanted_keys(module, todo), kept_keys, set(row_keys(made, module.WRITES.key)), work.rejects)

    input_key = keys_digest(output_keys(module.READS[0], inputs[0]))
    passing = sum(1 for reject in work.all_rejects if reject["passing"])
    rows = _in_order(pa.concat_tables([kept, made]), module.WRITES, wanted_keys(module, inputs[0]))
    with drafts.kept_locally(shard, rows):
        work.write_rejects()
        _write_remarks(context, shard)
        drafts.write(shard, rows, input_key, len(work.all_rejects), passing)
    return Counts(made.num_rows, kept.num_rows, len(work.all_rejects), passing)


def _in_order(rows: pa.Table, table: Table, keys: Sequence[tuple[str, ...]]) -> pa.Table:
    """Return rows in the order of `keys`, which is the order of the rows that they are made from. The order in which a
    stage finished them depends only on what else it had to do."""
    positions = {key: number for number, key in enumerate(keys)}
    order = [positions[key] for key in row_keys(rows, table.key)]
    return rows.take(pa.array(sorted(range(len(order)), key=order.__getitem__), pa.int64()))


def _key_of(text: str) -> tuple[str, ...]:
    return tuple(text.split("/"))


def _still_good(context: Context, table: Table, rows: pa.Table, wanted: set[tuple[str, ...]]) -> pa.Table:
    """Return the rows that are wanted and whose files exist."""
    absent = absent_files(context.store, table, rows) if table.files else [""] * rows.num_rows
    good = [key in wanted and not problem for key, problem in zip(row_keys(rows, table.key), absent, strict=True)]
    return rows.filter(pa.array(good, pa.bool_()))


class _ShardInWork:
    """Rows and rejects of a shard as its stage yields them, saved beside it so that little is lost if the run ends."""

    def __init__(
        self, context: Context, drafts: Drafts, shard: str, consulted: str | None, rejects: Sequence[Mapping[str, Any]]
    ) -> None:
        self._context, self._drafts, self._shard, self._consulted = context, drafts, shard, consulted
        self._before = list(rejects)
        self._saved: list[pa.Table] = []
        self._unsaved: list[Mapping[str, Any]] = []
        self.rejects: list[Reject] = []

    @property
    def all_rejects(self) -> list[dict[str, Any]]:
        """Rejects of earlier runs that still stand, and new ones, as rows."""
        new = [_reject_row(self._context, reject, self._consulted) for reject in self.rejects]
        return [*(dict(row) for row in self._before), *new]

    def made(self) -> pa.Table:
        """Return all rows that the stage has made so far."""
        table = self._drafts.table
        return pa.concat_tables(
            [pa.Table.from_batches([], table.schema), *self._saved, _as_table(self._unsaved, table)]
        )

    def take(self, parts: Iterable[Shard]) -> None:
        """Take all that a stage yields for the shard. Whatever ends the stage, what was made until then is saved."""
        since, cost = time.monotonic(), 0.0
        try:
            for part in parts:
                self._unsaved += part.rows
                self.rejects += part.rejects
                give_back_memory_regularly()
                if time.monotonic() - since >= max(SAVE_SECONDS, SAVE_SHARE * cost):
                    started_at = time.monotonic()
                    self._save()
                    since = time.monotonic()
                    cost = since - started_at
        except BaseException:
            with suppress(Exception):  # the error that ended the work is the one to report
                self._save()
            raise

    def write_rejects(self) -> None:
        _write_rejects(self._context, self._shard, self.all_rejects)

    def _save(self) -> None:
        if self._unsaved:
            rows = _as_table(self._unsaved, self._drafts.table)
            self._drafts.write_part(self._shard, rows)
            self._saved.append(rows)
            self._unsaved = []
        if self.rejects:
            self.write_rejects()


def _check_result(
    stage: ConfiguredStage,
    wanted: Sequence[tuple[str, ...]],
    kept: frozenset[tuple[str, ...]],
    made: set[tuple[str, ...]],
    rejects: Sequence[Reject],
) -> None:
    """Check that a stage made or rejected each row that it was given, once.

    Raises:
        ValueError: the stage made something else, or neither made nor rejected a row.
    """
    refused, todo = {_key_of(reject.key) for reject in rejects}, set(wanted) - kept
    drivers = {driver_of(stage.module, key) for key in wanted}
    of_refused = {key for key in made if driver_of(stage.module, key) in refused}
    wrong = f"expected {stage.name} to make or refuse each row that it was given, got"
    for extra in (made - todo) | (refused - drivers) | of_refused:
        raise ValueError(f"{wrong} {'/'.join(extra)} in addition")
    for missing in todo - made:
        if driver_of(stage.module, missing) not in refused:
            raise ValueError(f"{wrong} nothing for {'/'.join(missing)}")


def _run_reduce(stage: ConfiguredStage, context: Context) -> Counts:
    """Run a reducing stage over its whole input, and write its rows and those of other tables.

    Raises:
        OSError: the input has changed since the stage was planned.
    """
    module, shard = stage.module, reduced_shard(stage.module, context)
    given = [table for table in module.READS if table not in getattr(module, "STREAMS", ())]
    inputs = [
        context.rows(table)
        if table.accumulates or table.name in context.versions
        else pa.Table.from_batches([], table.schema)
        for table in given  # an optional table may have no stage that makes it
    ]
    if context.data_digest and data_digest(module, context) != context.data_digest:
        # The result is identified by what it was planned from, so it must be made from exactly that. A folder that can
        # no longer be listed looks like an empty one.
        names = ", ".join(table.name for table in module.READS)
        raise OSError(f"expected {names} as they were when {stage.name} was planned, got changed ones: run it again")
    context.store.check_accepts_files()
    result = module.reduce(stage.config, context, *inputs)
    for name, beside in result.also.items():
        table = TABLES[name]
        context.store.write_shard(table, context.fingerprint, shard, _as_table(beside, table), context.identity)
    _write_rejects(context, shard, [_reject_row(context, reject, None) for reject in result.rejects])
    _write_remarks(context, shard)
    rows, refused = _as_table(result.rows, module.WRITES), len(result.rejects)
    if module.WRITES.accumulates:
        context.store.write_shard(module.WRITES, context.fingerprint, shard, rows, context.identity, refused)
    else:
        Drafts(context.store, module.WRITES, context.fingerprint).write(shard, rows, context.identity, refused)
    context.clear_scratch()  # the rows are written, so the state that led to them is no longer needed
    return Counts(rows.num_rows, 0, refused)


def _run_source(stage: ConfiguredStage, context: Context) -> Counts:
    """Read a source, and write each shard that changes as a draft, with the stage's rejects and remarks."""
    module, drafts = stage.module, Drafts(context.store, stage.module.WRITES, context.fingerprint)
    context.store.check_accepts_files()
    if is_staged(module):
        drafts.discard()
    known = drafts.read()
    refused = context.store.read(REJECTS, context.fingerprint)
    made, rejects, passing = 0, refused.num_rows, 0
    earlier = {(row["key"], row["stamp"]): row for row in refused.to_pylist()}
    for update in module.read_source(stage.config, context, known, refused):
        rows = _as_table(update.rows, module.WRITES)
        reject_rows = [
            earlier.get((reject.key, reject.stamp)) or _reject_row(context, reject, reject.stamp)
            for reject in update.rejects
        ]
        _write_rejects(context, "0", reject_rows)
        _write_remarks(context, "0")
        rejects, passing = len(reject_rows), sum(1 for row in reject_rows if row["passing"])
        for name, beside in update.also.items():
            _write_beside(context, TABLES[name], str(update.number), beside)
        drafts.write(str(update.number), rows, keys_digest(row_keys(rows, module.WRITES.key)))
        made += update.made
    _write_remarks(context, "0")
    total = sum(footer.rows for footer in drafts.footers().values())
    return Counts(made, total - made, rejects, passing)


def _write_beside(context: Context, table: Table, shard: str, beside: Sequence[Mapping[str, Any]]) -> None:
    """Write a shard of a table that lies beside the stage's own. If there are no rows, remove the shard."""
    if beside:
        rows = _as_table(beside, table)
        keys = keys_digest(row_keys(rows, table.key))
        context.store.write_shard(table, context.fingerprint, shard, rows, input_key=keys)
    else:
        context.store.remove_shard(table, context.fingerprint, shard)


def _as_table(rows: Sequence[Mapping[str, Any]], table: Table) -> pa.Table:
    """Return rows as Arrow with the table's columns; a column that a row lacks is null.

    Raises:
        ValueError: a row has a column that the table lacks.
    """
    unknown = {name for row in rows for name in row} - set(table.schema.names)
    if unknown:
        raise ValueError(f"expected columns of {table.name} ({', '.join(table.schema.names)}), got {sorted(unknown)}")
    return pa.Table.from_pylist([dict(row) for row in rows], schema=table.schema)


def _reject_row(context: Context, reject: Reject, stamp: str | None) -> dict[str, Any]:
    row = {"stage": context.stage, "key": reject.key, "uri": reject.uri, "kind": reject.kind, "message": reject.message}
    return row | {"run_id": context.run_id, "stamp": stamp, "passing": reject.passing}


def _write_rejects(context: Context, shard: str, rejects: Sequence[dict[str, Any]]) -> None:
    """Write rejects before the shard that they belong to. The footer of that shard says that both are there."""
    if rejects:
        rows = pa.Table.from_pylist(list(rejects), schema=REJECTS.schema)
        context.store.write_shard(REJECTS, context.fingerprint, shard, rows, input_key=context.fingerprint)
    else:
        context.store.remove_shard(REJECTS, context.fingerprint, shard)


def _write_remarks(context: Context, shard: str) -> None:
    """Replace the remarks of the stage's last job by those of this job. They are written before the shard, as rejects
    are."""
    remarks = [{"stage": context.stage, **vars(remark), "run_id": context.run_id} for remark in context.remarks.all()]
    if remarks:
        rows = pa.Table.from_pylist(remarks, schema=REMARKS.schema)
        context.store.write_shard(REMARKS, context.fingerprint, shard, rows, input_key=context.fingerprint)
    else:
        context.store.remove_shard(REMARKS, context.fingerprint, shard)
