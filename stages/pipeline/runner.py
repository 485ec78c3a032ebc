"""The one runner around every stage: reading, reusing, calling, checking, writing, and the run's row.

It needs no Prefect: `run_stage` does a stage from plan to row; flows call its three parts (`plan_stage` in
`stages.pipeline.planning`, `run_job`, `finish_stage`) so that each job is a task of theirs.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import pyarrow as pa

from schemas.content import row_keys
from schemas.identity import keys_digest
from schemas.records import REJECTS, RUNS
from schemas.tables import TABLES
from stages.pipeline.contract import Context, Reject, Shard, Stopped
from stages.pipeline.digests import consulted_digest
from stages.pipeline.planning import ConfiguredStage, Plan, driving_key, plan_stage, reduced_shard


class StageFailed(RuntimeError):
    """A stage did not do all that was asked; what it did is kept."""


@dataclass(frozen=True)
class Counts:
    """What came of a job or of a stage."""

    made: int = 0
    reused: int = 0
    refused: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.made + other.made, self.reused + other.reused, self.refused + other.refused)


@dataclass(frozen=True)
class StageResult:
    """A row of the table that a run ends with."""

    stage: str
    counts: Counts
    seconds: float


def run_stage(stage: ConfiguredStage, context: Context, asked: bool = True) -> StageResult:
    """Do all that a stage has to do, shard after shard.

    Raises:
        StageFailed: a shard failed, or more was refused than the settings allow.
        Stopped: the run was asked to stop.
    """
    started = datetime.now(UTC)
    plan = plan_stage(stage, context, asked)
    results, failures = [], []
    for job in plan.jobs:
        try:
            results.append(run_job(stage, context, job))
        except Stopped:
            raise
        except Exception as error:  # the other shards' work is worth having, and each failure is told at the end
            failures.append((job, error))
    return finish_stage(stage, context, plan, results, failures, started)


def run_job(stage: ConfiguredStage, context: Context, job: str) -> Counts:
    """Do one job of a plan: a shard, or all of a stage that is not made shard by shard. Done twice, even at the same
    time, it gives the same.

    Raises:
        ValueError: what the stage reads is not there, or the stage broke its contract.
    """
    _check_input(stage, context)
    if hasattr(stage.module, "shard"):
        return _run_shard(stage, context, job)
    if hasattr(stage.module, "reduce"):
        return _run_reduce(stage, context)
    return _run_source(stage, context)


def finish_stage(
    stage: ConfiguredStage,
    context: Context,
    plan: Plan,
    results: Sequence[Counts],
    failures: Sequence[tuple[str, BaseException]],
    started: datetime,
) -> StageResult:
    """Drop what lost its input, and write the stage's row of this run.

    Raises:
        StageFailed: a shard failed, or more was refused than the settings allow.
    """
    writes = stage.module.WRITES
    for shard in plan.gone:
        context.store.remove_shard(writes, context.fingerprint, shard)
        context.store.remove_shard(REJECTS, context.fingerprint, shard)
    for table in (writes, REJECTS):
        context.store.sweep(context.store.folder(table, context.fingerprint))
    counts = sum(results, Counts())
    if not (plan.jobs and hasattr(stage.module, "plan_source")):  # reading a source counts everything itself
        counts += Counts(0, _untouched(stage, context, plan), plan.refused)
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
        "code_version": code_version(),
        "outputs": [writes.name],
        "error": problem,
    }
    rows = pa.Table.from_pylist([row], schema=RUNS.schema)
    context.store.write_shard(RUNS, "1", f"{context.run_id}-{stage.name}", rows, input_key=context.run_id)
    if problem:
        raise StageFailed(problem) from (failures[0][1] if failures else None)
    return StageResult(stage.name, counts, seconds)


def _device(context: Context) -> str:
    """Where tensors were; a stage that loaded no torch had none, and does not wait for it to load now."""
    return context.device if "torch" in sys.modules else "cpu"


def code_version() -> str:
    """The version of Segue that runs."""
    try:
        return version("segue")
    except PackageNotFoundError:
        return "unknown"


def _untouched(stage: ConfiguredStage, context: Context, plan: Plan) -> int:
    """Rows of shards that were done before; a job counts the rows that it reused itself."""
    if plan.jobs and not hasattr(stage.module, "shard"):
        return 0
    store, shards = context.store, context.store.shards(stage.module.WRITES, context.fingerprint)
    footers = [
        store.footer(stage.module.WRITES, context.fingerprint, shard) for shard in shards if shard not in plan.jobs
    ]
    return sum(footer.rows for footer in footers if footer)


def _problem(
    stage: ConfiguredStage, context: Context, counts: Counts, failures: Sequence[tuple[str, BaseException]]
) -> str | None:
    if failures:
        shard, error = failures[0]
        where = (
            f"{len(failures)} of its shards failed; shard {shard}" if hasattr(stage.module, "shard") else "it failed"
        )
        return f"{stage.name}: {where}: {error or type(error).__name__}"
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
    given = [store.read(table, context.versions[table.name], [shard]) for table in module.READS]
    key, consulted = driving_key(module), consulted_digest(module, context)
    inputs = row_keys(given[0], key)
    wanted = set(inputs)

    existing = store.read(module.WRITES, version, [shard])
    kept = existing.filter(pa.array([one in wanted for one in row_keys(existing, key)], pa.bool_()))
    rejects = [reject for reject in store.read(REJECTS, version, [shard]).to_pylist() if reject["stamp"] == consulted]
    rejects = [reject for reject in rejects if tuple(reject["key"].split("/")) in wanted]
    done = set(row_keys(kept, key)) | {tuple(reject["key"].split("/")) for reject in rejects}

    todo = given[0].filter(pa.array([one not in done for one in inputs], pa.bool_()))
    made = stage.module.shard(stage.config, context, todo, *given[1:]) if todo.num_rows else Shard([])
    new = _as_table(made.rows, module.WRITES)
    _check_result(stage, set(row_keys(todo, key)), set(row_keys(new, key)), made.rejects)

    rejects += [_reject_row(context, reject, consulted) for reject in made.rejects]
    _write_rejects(context, shard, rejects)
    rows = pa.concat_tables([kept, new])
    input_key = keys_digest(row_keys(given[0], module.READS[0].key))
    store.write_shard(module.WRITES, version, shard, rows, input_key, refused=len(rejects))
    return Counts(new.num_rows, kept.num_rows, len(rejects))


def _check_result(stage: ConfiguredStage, asked: set, made: set, rejects: Sequence[Reject]) -> None:
    """A stage accounts for every row that it was given, once."""
    refused = {tuple(reject.key.split("/")) for reject in rejects}
    if made - asked or refused - asked or made & refused:
        odd = next(iter((made - asked) | (refused - asked) | (made & refused)))
        raise ValueError(
            f"expected {stage.name} to make or refuse each row that it was given, got {'/'.join(odd)} besides"
        )
    if asked - made - refused:
        missing = "/".join(next(iter(asked - made - refused)))
        raise ValueError(
            f"expected {stage.name} to make or refuse each row that it was given, got nothing for {missing}"
        )


def _run_reduce(stage: ConfiguredStage, context: Context) -> Counts:
    module, shard = stage.module, reduced_shard(stage.module, context)
    given = [table for table in module.READS if table not in getattr(module, "STREAMS", ())]
    made = module.reduce(stage.config, context, *(context.rows(table) for table in given))
    for name, rows in made.also.items():
        also = TABLES[name]
        context.store.write_shard(also, context.fingerprint, shard, _as_table(rows, also), context.identity)
    _write_rejects(context, shard, [_reject_row(context, reject, None) for reject in made.rejects])
    rows = _as_table(made.rows, module.WRITES)
    context.store.write_shard(module.WRITES, context.fingerprint, shard, rows, context.identity, len(made.rejects))
    context.clear_scratch()  # the rows stand, so the state that led to them is no longer needed
    return Counts(rows.num_rows, 0, len(made.rejects))


def _run_source(stage: ConfiguredStage, context: Context) -> Counts:
    store, module, version = context.store, stage.module, context.fingerprint
    known = store.read(module.WRITES, version)
    refused = store.read(REJECTS, version)
    made, rejects = 0, refused.num_rows
    earlier = {(row["key"], row["stamp"]): row for row in refused.to_pylist()}
    for update in module.read_source(stage.config, context, known, refused):
        rows = _as_table(update.rows, module.WRITES)
        shard = str(update.number)
        _write_rejects(
            context,
            "0",
            [earlier.get((one.key, one.stamp)) or _reject_row(context, one, one.stamp) for one in update.rejects],
        )
        rejects = len(update.rejects)
        store.write_shard(module.WRITES, version, shard, rows, keys_digest(row_keys(rows, module.WRITES.key)))
        made += update.made
    shards = [store.footer(module.WRITES, version, shard) for shard in store.shards(module.WRITES, version)]
    total = sum(footer.rows for footer in shards if footer)
    return Counts(made, total - made, rejects)


def _as_table(rows: Sequence, table) -> pa.Table:  # type: ignore[no-untyped-def]
    """Rows as Arrow, with the table's columns: one that a row lacks is null, one that the table lacks is an error."""
    unknown = {name for row in rows for name in row} - set(table.schema.names)
    if unknown:
        raise ValueError(f"expected columns of {table.name} ({', '.join(table.schema.names)}), got {sorted(unknown)}")
    return pa.Table.from_pylist([dict(row) for row in rows], schema=table.schema)


def _reject_row(context: Context, reject: Reject, stamp: str | None) -> dict:
    row = {"stage": context.stage, "key": reject.key, "uri": reject.uri, "kind": reject.kind, "message": reject.message}
    return row | {"run_id": context.run_id, "stamp": stamp}


def _write_rejects(context: Context, shard: str, rejects: Sequence[dict]) -> None:
    """Rejects go before the shard that they belong to: the shard's footer is what says that both are there."""
    if rejects:
        rows = pa.Table.from_pylist(list(rejects), schema=REJECTS.schema)
        context.store.write_shard(REJECTS, context.fingerprint, shard, rows, input_key=context.fingerprint)
    else:
        context.store.remove_shard(REJECTS, context.fingerprint, shard)
