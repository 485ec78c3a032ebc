"""Running stages in their order: plan a stage, do its jobs, write its row in `runs`, go on; stop at the first failure.

The command line and the flows derive the same `RunPlan` and call the same `run_stages`. How jobs are run is an
argument, so this module does not know Prefect; `flows.catalog` runs them as tasks.
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
from schemas.storage.leases import Holder, runs_at_work
from schemas.storage.records import combine_records
from stages.pipeline.contract import Preview, Progress, Stopped
from stages.pipeline.pipeline import Pipeline
from stages.pipeline.planning import plan_pipeline, preview_stages
from stages.pipeline.plans import ConfiguredStage, Plan
from stages.pipeline.runner import RunJobs, StageFailed, StageResult, run_one_by_one, run_stage


@dataclass(frozen=True)
class RunPlan:
    """Which stages of a recipe run, and with which settings."""

    stages: Sequence[ConfiguredStage]
    """All stages of the recipe, in order."""
    names: Sequence[str]
    """Names of the stages to run, in order."""
    settings: Settings
    """The settings, with the demo corpus as the source if none was given."""
    by_name: bool = False
    """Whether the stages were asked for by name, so that a `refresh` policy does not hold them back."""
    checks: tuple[Check, ...] = ()
    """Checks that a table must pass before it is published."""
    kept: Mapping[str, str] = field(default_factory=dict)
    """Versions that stages keep although a new release would make others, by stage."""

    def pipeline(self) -> Pipeline:
        """Return the stages with freshly computed identities: a run may have trained a model that they depend on."""
        return Pipeline(self.stages, self.settings, self.names, self.kept)

    def stage_plans(self, pipeline: Pipeline | None = None) -> list[Plan]:
        """Return what each stage would do; nothing is computed.

        Args:
            pipeline: the stages with their identities, if the caller has them already.

        Raises:
            MissingWeights: published weights cannot be found or fetched.
        """
        return plan_pipeline(pipeline or self.pipeline(), self.names, self.by_name)

    def previews(self, plans: Sequence[Plan]) -> dict[str, Preview]:
        """Return what the stages that were asked for by name would work on, by stage, for stages that provide it."""
        return preview_stages(self.pipeline(), plans) if self.by_name else {}


def plan_run(recipe: Recipe, settings: Settings, requested: Sequence[str] | None) -> RunPlan:
    """Return what a run does, derived from what was asked for.

    Args:
        requested: names of the stages to run; None or empty means all.

    Raises:
        ValueError: a stage is not known or takes no part in the recipe, or recordings have no source.
    """
    stages = recipe.configured_stages(settings.source, requested or (), settings.all_tables)
    names = selected_stages(stages, requested, recipe.preset)
    settings = with_source(settings, names, [stage.name for stage in stages])
    return RunPlan(stages, names, settings, bool(requested), recipe.checks)


def new_run_id() -> str:
    """Return a new run id; ids sort by the time when the run began."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


@dataclass
class Run:
    """One run: its plan, what whoever started it passes in, and its results."""

    plan: RunPlan
    stage_plans: Sequence[Plan] = ()
    """What its stages have to do, if that is known. This is valid until an earlier stage has changed something."""
    run_id: str = field(default_factory=new_run_id)
    progress: Progress = field(default_factory=Progress)
    stop: threading.Event = field(default_factory=threading.Event)
    results: list[StageResult] = field(default_factory=list)
    """The result of each stage so far, including the one that failed."""
    reported: set[str] = field(default_factory=set)
    """The ids of other runs on the same store that were reported."""
    is_at_work: bool = False
    """Whether other runs can see this one at work."""

    def other_runs_lines(self) -> list[str]:
        """Return a line about each other run at work on its store that was not reported yet."""
        others = runs_at_work(Store(self.plan.settings.store))
        new = {name: other for name, other in others.items() if other.run_id not in self.reported | {self.run_id}}
        self.reported |= {other.run_id for other in new.values()}
        return _lines_of_runs(new)

    def begin_work(self) -> None:
        """Report other runs once more, now that this one can be seen at work. Of two runs that began at the same time,
        neither saw the other before."""
        if not self.is_at_work:
            self.is_at_work = True
            self.progress.tell(self.other_runs_lines())


def other_runs_lines(store: Store) -> list[str]:
    """Return a line about each run at work on a store, for whoever is about to start another."""
    return _lines_of_runs(runs_at_work(store))


def _lines_of_runs(holders: Mapping[str, Holder]) -> list[str]:
    return [
        f"another run is at work on this store: {holder}, at {name.partition('-')[0]}; what both "
        "need is made once, and the other run waits for it"
        for name, holder in holders.items()
    ]


current_run: ContextVar[Run | None] = ContextVar("current_run", default=None)
"""The run that the current flow run belongs to, if the command line started it. It is not a parameter of the flow,
since parameters are JSON and a progress bar is not."""


def run_stages(run: Run, run_jobs: RunJobs = run_one_by_one) -> None:
    """Run the stages of a run, each after those that it reads.

    Raises:
        StageFailed: a stage did not do everything. Later stages did not run; what was done is kept.
        Stopped: the run was asked to stop.
        ValueError: weights or settings that the stages need are missing.
    """
    # Importing DuckDB takes a fifth of a second, which `segue plan` saves.
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
        shown_later = _is_shown_later(pipeline, name, names)
        context = replace(
            context, progress=run.progress, stop=run.stop, checks=run.plan.checks, shown_later=shown_later
        )
        try:
            result = run_stage(
                pipeline.stages[name], context, run.plan.by_name, run_jobs, stage_plans.get(name), run.begin_work
            )
        except StageFailed as failure:
            if failure.result:
                run.results.append(failure.result)
            write_views(pipeline.store)
            raise
        run.results.append(result)
        if result.changed:
            stage_plans.clear()  # later stages have other rows to read now
        if result.changed or name == names[-1]:
            write_views(pipeline.store)


def _is_shown_later(pipeline: Pipeline, name: str, names: Sequence[str]) -> bool:
    """Return whether a later stage of the run publishes the table of this stage together with its own."""
    table, later = pipeline.stages[name].module.WRITES, names[list(names).index(name) + 1 :]
    return any(table in getattr(pipeline.stages[each].module, "SHOWS", ()) for each in later)
