"""Running stages in their order: plan one, do its jobs, write its row, go on; stop at the first that fails.

The command line and the flows derive the same `RunPlan` and go through the same `run_stages`. How jobs are done is
handed in, so that this knows nothing of Prefect: `flows.catalog` does them as tasks.
"""

import secrets
import threading
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from flows.recipes.recipe import Recipe, selected_stages, with_source
from flows.runs.codecs import check_codecs
from schemas import Settings, Store
from schemas.queries.checks import Check
from schemas.storage.leases import runs_at_work
from schemas.storage.records import combine_records
from stages.pipeline.contract import Preview, Progress, Stopped
from stages.pipeline.pipeline import Pipeline
from stages.pipeline.planning import plan_pipeline, preview_stages
from stages.pipeline.plans import ConfiguredStage, Plan
from stages.pipeline.runner import RunJobs, StageFailed, StageResult, run_one_by_one, run_stage


@dataclass(frozen=True)
class RunPlan:
    """Which stages of a recipe run, and where."""

    stages: Sequence[ConfiguredStage]
    """All stages of the recipe, in order."""
    names: Sequence[str]
    """Those to run, in order."""
    settings: Settings
    """With the demo corpus for a source where none was given."""
    by_name: bool = False
    """The stages were asked for by name, so a `refresh` policy does not hold them back."""
    checks: tuple[Check, ...] = ()
    """What must hold before a table is published."""
    kept: Mapping[str, str] = field(default_factory=dict)
    """Versions of tables that stages go on with though a release would make others, by the stage."""

    def pipeline(self) -> Pipeline:
        """Return the stages with new identities: a run may have trained a model that they depend on."""
        return Pipeline(self.stages, self.settings, self.names, self.kept)

    def stage_plans(self, pipeline: Pipeline | None = None) -> list[Plan]:
        """Return what each stage would do, computing nothing.

        Args:
            pipeline: the stages with their identities, where whoever asks goes on with them.

        Raises:
            MissingWeights: published weights cannot be had.
        """
        return plan_pipeline(pipeline or self.pipeline(), self.names, self.by_name)

    def previews(self, plans: Sequence[Plan]) -> dict[str, Preview]:
        """Return what the stages of a plan that were asked for by name would work on, by stage, where they tell."""
        return preview_stages(self.pipeline(), plans) if self.by_name else {}


def plan_run(recipe: Recipe, settings: Settings, requested: Sequence[str] | None) -> RunPlan:
    """Derive what a run does from what was asked for.

    Args:
        requested: names of the stages to run; none means all.

    Raises:
        ValueError: a stage is not known or takes no part in the recipe, or recordings have no source.
    """
    stages = recipe.configured_stages(settings.source, requested or (), settings.all_tables)
    names = selected_stages(stages, requested, recipe.preset)
    settings = with_source(settings, names, [stage.name for stage in stages])
    return RunPlan(stages, names, settings, bool(requested), recipe.checks)


def new_run_id() -> str:
    """Return a name for a run that sorts by its start."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


@dataclass
class Run:
    """One run: what it does, what whoever started it tells it, and what it tells them."""

    plan: RunPlan
    stage_plans: Sequence[Plan] = ()
    """What its stages have to do, where that is known; they stand until a stage before them has done something."""
    run_id: str = field(default_factory=new_run_id)
    progress: Progress = field(default_factory=Progress)
    stop: threading.Event = field(default_factory=threading.Event)
    results: list[StageResult] = field(default_factory=list)
    """What came of each stage so far, the failed one too."""


def other_runs_lines(store: Store) -> list[str]:
    """Return a line for each run that is at work on a store, for whoever is about to start one more."""
    return [
        f"another run is at work on this store: {holder}, at {name.partition('-')[0]}; what both would make is made "
        "once, and waited for"
        for name, holder in runs_at_work(store).items()
    ]


current_run: ContextVar[Run | None] = ContextVar("current_run", default=None)
"""The run that this flow run belongs to, where the command line started it: a flow's parameters are JSON, so a progress
bar cannot be one of them."""


def run_stages(run: Run, run_jobs: RunJobs = run_one_by_one) -> None:
    """Run the stages of a run, each after those that it reads.

    Raises:
        StageFailed: a stage did not do all that it had to do; later ones did not run, what was done is kept.
        Stopped: the run was asked to stop.
        ValueError: weights or settings that the stages need are missing.
    """
    # DuckDB takes a fifth of a second that `segue plan` can do without.
    from schemas.queries.kept_database import write_views

    names = run.plan.names
    pipeline = run.plan.pipeline()
    stage_plans = {plan.stage: plan for plan in run.stage_plans if not plan.follows}
    pipeline.store.require()
    combine_records(pipeline.store, run.run_id)
    pipeline.fetch(names)
    pipeline.check_inputs(names)
    check_codecs(pipeline, names)
    for name in names:
        if run.stop.is_set():
            raise Stopped(f"{name} was asked to stop")
        context = pipeline.context(name, run.run_id)
        context = replace(context, progress=run.progress, stop=run.stop, checks=run.plan.checks)
        try:
            result = run_stage(pipeline.stages[name], context, run.plan.by_name, run_jobs, stage_plans.get(name))
        except StageFailed as failure:
            if failure.result:
                run.results.append(failure.result)
            write_views(pipeline.store)
            raise
        run.results.append(result)
        if result.changed:
            stage_plans.clear()  # what follows has other rows to read now
        if result.changed or name == names[-1]:
            write_views(pipeline.store)
