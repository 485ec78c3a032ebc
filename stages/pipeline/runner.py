"""The one runner around every stage: it plans, does the jobs, checks, publishes, and writes the run's row.

Jobs make drafts, which no view shows; they are published once the whole stage has passed. The runner needs no Prefect:
flows give `run_stage` another function that does the jobs, so that each job is a Prefect task.
"""

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from schemas.storage.drafts import Drafts, PublishedShard
from schemas.storage.leases import Holder, hold_lease
from schemas.storage.publications import Publications
from schemas.storage.versions import record_version
from schemas.tables import CHECKS, REJECTS, REMARKS, RUNS
from stages.pipeline.checking import failed_check, run_checks
from stages.pipeline.contract import CheckResult, Context, Stopped
from stages.pipeline.jobs import Counts, JobResult, run_job
from stages.pipeline.keys import is_staged
from stages.pipeline.loans import end_loans
from stages.pipeline.parts import list_parts
from stages.pipeline.planning import plan_stage
from stages.pipeline.plans import EVERYTHING, ConfiguredStage, Plan
from stages.pipeline.release import code_version

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageResult:
    """The result of a stage: a row of the table that a run ends with."""

    stage: str
    counts: Counts
    seconds: float
    changed: bool = False
    """Whether the stage had work, so that what the views show may have changed."""


class StageFailed(RuntimeError):
    """A stage did not do all of its work; what it did is kept."""

    def __init__(self, message: str, result: StageResult | None = None) -> None:
        super().__init__(message)
        self.result = result


RunJobs = Callable[[ConfiguredStage, Context, Sequence[str]], Sequence[JobResult]]
"""Does jobs of a stage with `run_job`, and returns the result of each."""


def run_one_by_one(stage: ConfiguredStage, context: Context, jobs: Sequence[str]) -> Sequence[JobResult]:
    """Do jobs one after the other in this thread."""
    results = []
    for job in jobs:
        try:
            results.append(JobResult(job, run_job(stage, context, job)))
        except Exception as error:  # the other jobs' work is worth having, and each failure is reported at the end
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
    on_lease: Callable[[], None] = lambda: None,
) -> StageResult:
    """Do all work of a stage, drop what lost its input, and write the stage's row of this run.

    Args:
        by_name: the stage was asked for by name, so a `refresh` policy does not hold it back.
        plan: what the stage has to do, if that is known already.
        on_lease: called once other runs can see that this one is at work on the stage.

    Raises:
        StageFailed: a job failed, or a check did, such as the limit on refused items.
        Stopped: the run was asked to stop.
    """
    started = datetime.now(UTC)
    store, code = context.store, stage.module.VERSION
    record_version(store, context.fingerprint, stage.name, code, context.config, context.versions)
    plan = plan or plan_stage(stage, context, by_name)
    if not (plan.jobs or plan.gone) and _is_published(stage, context):
        return _finish(stage, context, started, _untouched_counts(stage, context, plan), changed=False)

    def report_wait(holder: Holder) -> None:
        log.warning("%s waits for %s, which is making it", stage.name, holder)

    name = f"{stage.name}-{context.fingerprint}"
    with hold_lease(context.store, name, context.run_id, report_wait, context.check_stopped) as (lease, waited):
        on_lease()
        # Another run may have done some of the work since the plan was made, so the stage is planned again. The job of
        # a source finds that out itself, and planning it again would list and compare all recordings again.
        is_compared_by_job = hasattr(stage.module, "plan_source") and not is_staged(stage.module)
        if waited or not (plan.jobs and is_compared_by_job):
            plan = plan_stage(stage, context, by_name)
        parts = list_parts(stage, context) if plan.jobs else ()
        context.progress.begin_stage(stage.name, len(parts) + len(plan.jobs))
        failures = _failed(run_jobs(stage, context, parts)) if parts else []
        results = run_jobs(stage, context, plan.jobs) if plan.jobs and not failures else []
        failures += _failed(results)
        end_loans()
        counts = sum((result.counts for result in results), Counts())
        if not (plan.jobs and hasattr(stage.module, "plan_source")):  # reading a source counts everything itself
            counts += _untouched_counts(stage, context, plan)
        problem = _failure(stage, failures)
        if problem is None:
            rows = counts.made + counts.reused
            checks = run_checks(stage, context, plan, rows, counts.refused, counts.passing)
            _write_checks(context, checks)
            problem = failed_check(stage.name, checks)
        lease.check()
        if problem is None:
            _publish(stage, context, plan)
        elif is_staged(stage.module):
            Drafts(store, stage.module.WRITES, context.fingerprint).discard()
        return _finish(stage, context, started, counts, True, problem, failures)


def _is_published(stage: ConfiguredStage, context: Context) -> bool:
    """Return whether the publication of the stage's table is up to date (views may still be held at an earlier one)."""
    writes = stage.module.WRITES
    drafts = Drafts(context.store, writes, context.fingerprint)
    if writes.accumulates or not drafts.shards():
        return True
    return not drafts.drafted() and not _unpublished(stage, context)


def _unpublished(stage: ConfiguredStage, context: Context) -> dict[str, tuple[str, list[PublishedShard]]]:
    """Return the version and shards of each table that this stage still has to publish, by name: the tables of its
    `SHOWS`, and its own unless a later stage publishes that."""
    shows = [table for table in getattr(stage.module, "SHOWS", ()) if table.name in context.versions]
    shown = {table: context.versions[table.name] for table in shows}
    versions = shown if context.shown_later else shown | {stage.module.WRITES: context.fingerprint}
    publications, unpublished = Publications(context.store), {}
    for table, version in versions.items():
        manifest = Drafts(context.store, table, version).manifest()
        if manifest and not publications.is_current(table, version, manifest):
            unpublished[table.name] = (version, manifest)
    return unpublished


def _publish(stage: ConfiguredStage, context: Context, plan: Plan) -> None:
    """Publish what the stage has made, so that users see it."""
    store, writes = context.store, stage.module.WRITES
    drafts = Drafts(store, writes, context.fingerprint)
    if not writes.accumulates:
        drafts.publish(plan.gone)
        for table in _unpublished(stage, context).items():
            # Each table has a record of its own, because an order of requests stays while models and clips change.
            Publications(store).publish(context.run_id, stage.name, dict([table]))
    for shard in plan.gone:
        store.remove_shard(REJECTS, context.fingerprint, shard)
        store.remove_shard(REMARKS, context.fingerprint, shard)
    written = [store.folder(table, context.fingerprint) for table in (writes, REJECTS, REMARKS)]
    for folder in ("", "models", "runs/version=1", "weights/version=1", *written, f"{written[0]}/drafts"):
        store.sweep(folder)


def _finish(
    stage: ConfiguredStage,
    context: Context,
    started: datetime,
    counts: Counts,
    changed: bool,
    problem: str | None = None,
    failures: Sequence[JobResult] = (),
) -> StageResult:
    """Write the stage's row of this run and return its result.

    Args:
        changed: whether the stage had work.

    Raises:
        StageFailed: `problem` is not None.
    """
    seconds = (datetime.now(UTC) - started).total_seconds()
    latest = Publications(context.store).latest()
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
        "stage_version": stage.module.VERSION,
        "outputs": [stage.module.WRITES.name],
        "error": problem,
        # The last publication when the stage ended, which orders runs even if the clocks of machines differ.
        "sequence": latest.sequence if latest else 0,
    }
    rows = pa.Table.from_pylist([row], schema=RUNS.schema)
    context.store.write_shard(RUNS, "1", f"{context.run_id}-{stage.name}", rows, input_key=context.run_id)
    result = StageResult(stage.name, counts, seconds, changed)
    if problem:
        raise StageFailed(problem, result) from (failures[0].error if failures else None)
    return result


def _write_checks(context: Context, checks: Sequence[CheckResult]) -> None:
    """Write the results of checks, and log a warning for each failed check that is only a warning."""
    rows = [
        vars(check) | {"passed": check.passed, "run_id": context.run_id, "stage": context.stage} for check in checks
    ]
    if rows:
        table = pa.Table.from_pylist(rows, schema=CHECKS.schema)
        context.store.write_shard(CHECKS, "1", f"{context.run_id}-{context.stage}", table, context.run_id)
    for check in checks:
        if not check.passed and check.severity == "warn":
            log.warning("%s: %s", context.stage, check.message)


def _device(context: Context) -> str:
    """Return the device that tensors were on. A stage that loaded no torch had none, and torch is not loaded now to
    find out."""
    if context.settings.device == "cuda":
        return "cuda"  # of a cluster's workers; the run's own machine may have no GPU
    return context.device if "torch" in sys.modules else "cpu"


def _failed(results: Sequence[JobResult]) -> list[JobResult]:
    """Return the jobs that failed.

    Raises:
        Stopped: the run was asked to stop.
    """
    failures = [result for result in results if result.error is not None]
    for failure in failures:
        if isinstance(failure.error, Stopped):
            raise failure.error
    return failures


def _untouched_counts(stage: ConfiguredStage, context: Context, plan: Plan) -> Counts:
    """Count the rows of shards that were done before; a job itself counts the rows that it reused."""
    if plan.jobs and not hasattr(stage.module, "shard"):
        return Counts(0, 0, plan.refused)
    footers = Drafts(context.store, stage.module.WRITES, context.fingerprint).footers()
    untouched = sum(
        footer.rows for shard, footer in footers.items() if shard not in plan.jobs and shard not in plan.gone
    )
    return Counts(0, untouched, plan.refused)


def _failure(stage: ConfiguredStage, failures: Sequence[JobResult]) -> str | None:
    """Return a message about the jobs that failed; None if none did."""
    if not failures:
        return None
    first, where = failures[0], "it failed"
    if first.job != EVERYTHING:
        what = "shards" if hasattr(stage.module, "shard") else "jobs"
        where = f"{len(failures)} of its {what} failed; {what.removesuffix('s')} {first.job}"
    return f"{stage.name}: {where}: {first.error or type(first.error).__name__}"
