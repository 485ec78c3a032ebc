"""The one runner around every stage: planning, reading, reusing, calling, checking, writing, and the run's row.

It needs no Prefect: flows hand `run_stage` another way to do its jobs, so that each of them is a task of theirs.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pyarrow as pa

from schemas.identity import keys_digest
from schemas.store import row_keys
from schemas.tables import REJECTS, REMARKS, RUNS, TABLES, Table
from stages.pipeline.contract import Context, Reject, Remarks, Stopped
from stages.pipeline.planning import ConfiguredStage, Plan, consulted_digest, driving_key, plan_stage, reduced_shard


@dataclass(frozen=True)
class Counts:
    """What came of a job or of a stage, in rows."""

    made: int = 0
    reused: int = 0
    refused: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.made + other.made, self.reused + other.reused, self.refused + other.refused)


@dataclass(frozen=True)
class JobResult:
    """What came of one job: its counts, or the error that ended it."""

    job: str
    counts: Counts = Counts()
    error: Exception | None = None


@dataclass(frozen=True)
class StageResult:
    """What came of a stage: a row of the table that a run ends with."""

    stage: str
    counts: Counts
    seconds: float
    changed: bool = False
    """Whether it had something to do, so that what views show may have changed."""


class StageFailed(RuntimeError):
    """A stage did not do all that it had to do; what it did is kept."""

    def __init__(self, message: str, result: StageResult | None = None) -> None:
        super().__init__(message)
        self.result = result


RunJobs = Callable[[ConfiguredStage, Context, Sequence[str]], Sequence[JobResult]]
"""Does jobs of a stage with `run_job`, and returns what came of each."""


def run_one_by_one(stage: ConfiguredStage, context: Context, jobs: Sequence[str]) -> Sequence[JobResult]:
    """Do jobs one after the other in this thread."""
    results = []
    for job in jobs:
        try:
            results.append(JobResult(job, run_job(stage, context, job)))
        except Exception as error:  # the other jobs' work is worth having, and each failure is told at the end
            results.append(JobResult(job, error=error))
            if isinstance(error, Stopped):
                break
    return results


def run_stage(
    stage: ConfiguredStage,
    context: Context,
    by_name: bool = True,
    run_jobs: RunJobs = run_one_by_one,
    plan: Plan | None = None,
) -> StageResult:
    """Do all that a stage has to do, drop what lost its input, and write the stage's row of this run.

    Args:
        by_name: the stage was asked for by name, so a `refresh` policy does not hold it back.
        plan: what it has to do, where that is known.

    Raises:
        StageFailed: a job failed, or more was refused than the settings allow.
        Stopped: the run was asked to stop.
    """
    started = datetime.now(UTC)
    plan = plan or plan_stage(stage, context, by_name)
    results = run_jobs(stage, context, plan.jobs) if plan.jobs else []
    failures = [result for result in results if result.error is not None]
    for failure in failures:
        if isinstance(failure.error, Stopped):
            raise failure.error
    writes = stage.module.WRITES
    for shard in plan.gone:
        context.store.remove_shard(writes, context.fingerprint, shard)
        context.store.remove_shard(REJECTS, context.fingerprint, shard)
        context.store.remove_shard(REMARKS, context.fingerprint, shard)
    for table in (writes, REJECTS, REMARKS):
        context.store.sweep(context.store.folder(table, context.fingerprint))
    counts = sum((result.counts for result in results), Counts())
    if not (plan.jobs and hasattr(stage.module, "plan_source")):  # reading a source counts everything itself
        counts += Counts(0, _untouched_rows(stage, context, plan), plan.refused)
    seconds = (datetime.now(UTC) - started).total_seconds()
    problem = _problem(stage, context, counts, failures)
    row = {
        "run_id": context.run_id,
        "stage": stage.name,
        "fingerprint": context.fingerprint,
        "inputs": list(context.versions.items()),
        "started_at": started,
        "seconds": seconds,
        "rows_made": counts.made,
        "rows_reused": counts.reused,
        "rows_refused": counts.refused,
        "device": _device(context),
        "code_version": _code_version(),
        "outputs": [writes.name],
        "error": problem,
    }
    rows = pa.Table.from_pylist([row], schema=RUNS.schema)
    context.store.write_shard(RUNS, "1", f"{context.run_id}-{stage.name}", rows, input_key=context.run_id)
    result = StageResult(stage.name, counts, seconds, changed=bool(plan.jobs or plan.gone))
    if problem:
        raise StageFailed(problem, result) from (failures[0].error if failures else None)
    return result


def run_job(stage: ConfiguredStage, context: Context, job: str) -> Counts:
    """Do one job of a plan: a shard, or all of a stage that is not made shard by shard. Done twice, even at the same
    time, it gives the same.

    Raises:
        ValueError: what the stage reads is not there, or the stage broke its contract.
    """
    _check_input(stage, context)
    context = replace(context, remarks=Remarks())
    if hasattr(stage.module, "shard"):
        return _run_shard(stage, context, job)
    if hasattr(stage.module, "reduce"):
        return _run_reduce(stage, context)
    return _run_source(stage, context)


def _device(context: Context) -> str:
    """Return where tensors were; a stage that loaded no torch had none, and does not wait for it to load now."""
    return context.device if "torch" in sys.modules else "cpu"


def _code_version() -> str:
    try:
        return version("segue")
    except PackageNotFoundError:
        return "unknown"


def _untouched_rows(stage: ConfiguredStage, context: Context, plan: Plan) -> int:
    """Count the rows of shards that were done before; a job counts the rows that it reused itself."""
    if plan.jobs and not hasattr(stage.module, "shard"):
        return 0
    store, shards = context.store, context.store.shards(stage.module.WRITES, context.fingerprint)
    footers = [
        store.footer(stage.module.WRITES, context.fingerprint, shard) for shard in shards if shard not in plan.jobs
    ]
    return sum(footer.rows for footer in footers if footer)


def _problem(stage: ConfiguredStage, context: Context, counts: Counts, failures: Sequence[JobResult]) -> str | None:
    """Say why a stage failed, if it did."""
    if failures:
        first, where = failures[0], "it failed"
        if hasattr(stage.module, "shard"):
            where = f"{len(failures)} of its shards failed; shard {first.job}"
        return f"{stage.name}: {where}: {first.error or type(first.error).__name__}"
    total = counts.made + counts.reused + counts.refused
    if total and counts.refused / total > context.settings.max_refused:
        return (
            f"{stage.name}: refused {counts.refused} of {total} items, more than settings.max_refused = "
            f"{context.settings.max_refused:g} allows; see: SELECT * FROM rejects WHERE stage = '{stage.name}'"
        )
    return None


def _check_input(stage: ConfiguredStage, context: Context) -> None:
    for table in stage.module.READS:
        if table in getattr(stage.module, "OPTIONAL", ()):
            continue
        if not table.accumulates and not context.store.shards(table, context.versions[table.name]):
            raise ValueError(
                f"expected the table {table.name} (version {context.versions[table.name]}) for {stage.name}, got "
                f"nothing in {context.store.url}: run the stage that makes it first, with the same preset and settings"
            )


def _run_shard(stage: ConfiguredStage, context: Context, shard: str) -> Counts:
    store, module, version = context.store, stage.module, context.fingerprint
    inputs = [store.read(table, context.versions[table.name], [shard]) for table in module.READS]
    key, consulted = driving_key(module), consulted_digest(module, context)
    keys = row_keys(inputs[0], key)
    wanted = set(keys)

    existing = store.read(module.WRITES, version, [shard])
    kept = existing.filter(pa.array([row in wanted for row in row_keys(existing, key)], pa.bool_()))
    rejects = [reject for reject in store.read(REJECTS, version, [shard]).to_pylist() if reject["stamp"] == consulted]
    rejects = [reject for reject in rejects if tuple(reject["key"].split("/")) in wanted]
    done = set(row_keys(kept, key)) | {tuple(reject["key"].split("/")) for reject in rejects}

    todo = inputs[0].filter(pa.array([row not in done for row in keys], pa.bool_()))
    parts = list(module.shard(stage.config, context, todo, *inputs[1:])) if todo.num_rows else []
    made = _as_table([row for part in parts for row in part.rows], module.WRITES)
    refused = [reject for part in parts for reject in part.rejects]
    _check_result(stage, set(row_keys(todo, key)), set(row_keys(made, key)), refused)

    rejects += [_reject_row(context, reject, consulted) for reject in refused]
    _write_rejects(context, shard, rejects)
    _write_remarks(context, shard)
    rows = pa.concat_tables([kept, made])
    input_key = keys_digest(row_keys(inputs[0], module.READS[0].key))
    store.write_shard(module.WRITES, version, shard, rows, input_key, refused=len(rejects))
    return Counts(made.num_rows, kept.num_rows, len(rejects))


def _check_result(
    stage: ConfiguredStage, todo: set[tuple[str, ...]], made: set[tuple[str, ...]], rejects: Sequence[Reject]
) -> None:
    """See that a stage accounts for every row that it was given, once.

    Raises:
        ValueError: it does not.
    """
    refused = {tuple(reject.key.split("/")) for reject in rejects}
    wrong = f"expected {stage.name} to make or refuse each row that it was given, got"
    for extra in (made - todo) | (refused - todo) | (made & refused):
        raise ValueError(f"{wrong} {'/'.join(extra)} besides")
    for missing in todo - made - refused:
        raise ValueError(f"{wrong} nothing for {'/'.join(missing)}")


def _run_reduce(stage: ConfiguredStage, context: Context) -> Counts:
    module, shard = stage.module, reduced_shard(stage.module, context)
    inputs = [context.rows(table) for table in module.READS if table not in getattr(module, "STREAMS", ())]
    result = module.reduce(stage.config, context, *inputs)
    for name, beside in result.also.items():
        table = TABLES[name]
        context.store.write_shard(table, context.fingerprint, shard, _as_table(beside, table), context.identity)
    _write_rejects(context, shard, [_reject_row(context, reject, None) for reject in result.rejects])
    _write_remarks(context, shard)
    rows = _as_table(result.rows, module.WRITES)
    context.store.write_shard(module.WRITES, context.fingerprint, shard, rows, context.identity, len(result.rejects))
    context.clear_scratch()  # the rows stand, so the state that led to them is no longer needed
    return Counts(rows.num_rows, 0, len(result.rejects))


def _run_source(stage: ConfiguredStage, context: Context) -> Counts:
    store, module, version = context.store, stage.module, context.fingerprint
    known = store.read(module.WRITES, version)
    refused = store.read(REJECTS, version)
    made, rejects = 0, refused.num_rows
    earlier = {(row["key"], row["stamp"]): row for row in refused.to_pylist()}
    for update in module.read_source(stage.config, context, known, refused):
        rows = _as_table(update.rows, module.WRITES)
        reject_rows = [
            earlier.get((reject.key, reject.stamp)) or _reject_row(context, reject, reject.stamp)
            for reject in update.rejects
        ]
        _write_rejects(context, "0", reject_rows)
        _write_remarks(context, "0")
        rejects = len(reject_rows)
        keys = keys_digest(row_keys(rows, module.WRITES.key))
        store.write_shard(module.WRITES, version, str(update.number), rows, keys)
        made += update.made
    _write_remarks(context, "0")
    footers = [store.footer(module.WRITES, version, shard) for shard in store.shards(module.WRITES, version)]
    total = sum(footer.rows for footer in footers if footer)
    return Counts(made, total - made, rejects)


def _as_table(rows: Sequence[Mapping[str, Any]], table: Table) -> pa.Table:
    """Return rows as Arrow, with the table's columns; one that a row lacks is null.

    Raises:
        ValueError: a row has a column that the table lacks.
    """
    unknown = {name for row in rows for name in row} - set(table.schema.names)
    if unknown:
        raise ValueError(f"expected columns of {table.name} ({', '.join(table.schema.names)}), got {sorted(unknown)}")
    return pa.Table.from_pylist([dict(row) for row in rows], schema=table.schema)


def _reject_row(context: Context, reject: Reject, stamp: str | None) -> dict[str, Any]:
    row = {"stage": context.stage, "key": reject.key, "uri": reject.uri, "kind": reject.kind, "message": reject.message}
    return row | {"run_id": context.run_id, "stamp": stamp}


def _write_rejects(context: Context, shard: str, rejects: Sequence[dict[str, Any]]) -> None:
    """Write rejects before the shard that they belong to, whose footer is what says that both are there."""
    if rejects:
        rows = pa.Table.from_pylist(list(rejects), schema=REJECTS.schema)
        context.store.write_shard(REJECTS, context.fingerprint, shard, rows, input_key=context.fingerprint)
    else:
        context.store.remove_shard(REJECTS, context.fingerprint, shard)


def _write_remarks(context: Context, shard: str) -> None:
    """Write what the stage noticed in this job in the place of what it noticed before, as rejects are written."""
    remarks = [{"stage": context.stage, **vars(remark), "run_id": context.run_id} for remark in context.remarks.all()]
    if remarks:
        rows = pa.Table.from_pylist(remarks, schema=REMARKS.schema)
        context.store.write_shard(REMARKS, context.fingerprint, shard, rows, input_key=context.fingerprint)
    else:
        context.store.remove_shard(REMARKS, context.fingerprint, shard)
