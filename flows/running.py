"""Running stages in their order: plan one, do its jobs, write its row, go on; stop at the first that fails.

How jobs are done is handed in, so that this knows nothing of Prefect: `flows.catalog` does them as tasks.
"""

import secrets
import threading
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from schemas import Settings
from stages.pipeline.contract import Context, Progress, Stopped
from stages.pipeline.planning import ConfiguredStage, Pipeline, Plan, plan_stage
from stages.pipeline.runner import Counts, StageFailed, StageResult, finish_stage, run_job


def new_run_id() -> str:
    """A name for a run that sorts by its start."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


@dataclass
class Run:
    """One run: what whoever started it tells it, and what it tells them."""

    run_id: str = field(default_factory=new_run_id)
    progress: Progress = field(default_factory=Progress)
    stop: threading.Event = field(default_factory=threading.Event)
    results: list[StageResult] = field(default_factory=list)
    """What came of each stage so far, the failed one too."""


current_run: ContextVar[Run | None] = ContextVar("current_run", default=None)
"""The run that this flow run belongs to, where the command line started it: a flow's parameters are JSON, so a progress
bar cannot be one of them."""


@dataclass(frozen=True)
class Outcome:
    """What came of one job."""

    job: str
    counts: Counts | None = None
    error: BaseException | None = None


Execute = Callable[[ConfiguredStage, Context, Sequence[str]], list[Outcome]]
"""Does the jobs of a stage and tells what came of each."""


def in_turn(stage: ConfiguredStage, context: Context, jobs: Sequence[str]) -> list[Outcome]:
    """Do jobs one after the other in this thread."""
    outcomes = []
    for job in jobs:
        try:
            outcomes.append(Outcome(job, run_job(stage, context, job)))
        except Exception as error:  # the other jobs' work is worth having
            outcomes.append(Outcome(job, error=error))
            if isinstance(error, Stopped):
                break
    return outcomes


def run_stages(
    stages: Sequence[ConfiguredStage],
    settings: Settings,
    names: Sequence[str],
    asked: bool,
    run: Run,
    execute: Execute,
    planned: Sequence[Plan] = (),
) -> None:
    """Run the stages `names` of a recipe.

    Args:
        stages: all stages of the recipe, in order.
        asked: the stages were asked for by name, so a `refresh` policy does not hold them back.
        planned: the plans of stages that have just been found to have no work; the others are planned in their turn.

    Raises:
        StageFailed: a stage did not do all that was asked; later ones did not run, what was done is kept.
        Stopped: the run was asked to stop.
        ValueError: weights or settings that the stages need are missing.
    """
    from schemas.database import write_views  # DuckDB takes a fifth of a second that `segue plan` can do without

    pipeline, known = Pipeline(stages, settings), {plan.stage: plan for plan in planned}
    pipeline.fetch(names)
    for name in names:
        if run.stop.is_set():
            raise Stopped(f"{name} was asked to stop")
        started = datetime.now(UTC)
        stage = pipeline.stages[name]
        context = replace(pipeline.context(name, run.run_id), progress=run.progress, stop=run.stop)
        plan = known[name] if name in known else plan_stage(stage, context, asked)
        outcomes = execute(stage, context, plan.jobs) if plan.jobs else []
        counts = [outcome.counts for outcome in outcomes if outcome.counts is not None]
        failures = [(outcome.job, outcome.error) for outcome in outcomes if outcome.error is not None]
        stopped = next((error for _, error in failures if isinstance(error, Stopped)), None)
        if stopped is not None:
            raise stopped
        try:
            run.results.append(finish_stage(stage, context, plan, counts, failures, started))
        except StageFailed:
            seconds = (datetime.now(UTC) - started).total_seconds()
            run.results.append(StageResult(name, sum(counts, Counts()), seconds))
            raise
        finally:
            if plan.jobs or plan.gone or name == names[-1]:
                write_views(pipeline.store)
