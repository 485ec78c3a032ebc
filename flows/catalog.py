"""The whole pipeline as one Prefect flow: from recordings to a catalog of generated clips.

Stages are plain functions. Their stale shards are Prefect tasks, and stages are not flows of their own: a flow costs a
second, and a night on which nothing changed should cost none. A task is one shard or several (1 to 30 minutes of work),
never a single track. The record of what is done is in the store, never in Prefect's database. So Prefect neither caches
nor persists results, and a job may run twice, even at the same time.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger
from prefect.task_runners import TaskRunner
from prefect.tasks import Task

from flows.recipes.parameters import RecipeParameter, SettingsParameter, asked_for, run_name
from flows.recipes.recipe import GPU_STAGES, StageName
from flows.runs.clusters import Channel, connected_to_run, placement, places, relaying_progress, task_runner
from flows.runs.estimates import estimate
from flows.runs.failures import is_transient
from flows.runs.job_sizes import sized_jobs
from flows.runs.progress import LineProgress
from flows.runs.reasons import reason_lines
from flows.runs.running import Run, current_run, plan_run, run_stages
from flows.runs.upgrading import settled_plan
from flows.service.notifying import sender, tell_failure
from flows.service.progress_artifact import ReadableProgress, live_artifact
from flows.service.run_log import in_run_log
from flows.service.summary import leave_summary
from flows.service.suspending import ask_on_page
from flows.service.watching import watching_server
from schemas import Store
from stages.pipeline.contract import Context
from stages.pipeline.jobs import JobResult
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import RunJobs, run_one_by_one

RETRY_DELAYS = [2.0, 10.0, 30.0]
"""Seconds before each retry of a shard that failed for a passing reason."""


@flow(
    name="catalog", flow_run_name=run_name, persist_result=False, on_failure=[tell_failure], on_crashed=[tell_failure]
)
def catalog(*, stages: list[StageName] | None = None, settings: SettingsParameter, recipe: RecipeParameter) -> None:
    """Run the whole catalog, or some of its stages.

    Args:
        stages: Names of the stages to run; none means all.
        settings: Where the data is and how the run works; what is left out comes from the deployment.
        recipe: What is made: a preset, and changes to it; what is left out comes from the deployment and the preset.
    """
    run_recipe(recipe, settings, stages)


def run_recipe(recipe: RecipeParameter, settings: SettingsParameter, requested: Sequence[str] | None) -> None:
    """Run stages of a recipe inside a flow. The run's progress and its summary are artifacts of the flow run.

    Args:
        recipe, settings: parameters of the flow run as they were given.
        requested: names of the stages to run; None or empty means all.

    Raises:
        StageFailed: a stage did not do all of its work; what it did is kept.
        UpgradeWaits: a release changed a stage, and nobody has decided what happens to the stage's earlier results.
        ValueError: weights or settings that the stages need are missing, or the store cannot be written.
    """
    asked = asked_for(recipe, settings)
    recipe, settings = asked.recipe, asked.settings
    if settings.on_failure:
        sender(settings.on_failure)  # raises now, if the address is wrong, and not when it is needed
    log = get_run_logger()
    run = current_run.get()
    if run is None:
        settled = settled_plan(plan_run(recipe, settings, requested), ask_on_page)
        lines = LineProgress(log.info)
        lines.expect(estimate(settled.plan.pipeline(), settled.stage_plans))
        run = Run(settled.plan, settled.stage_plans, progress=lines)
        for line in (*settled.lines, *run.other_runs_lines()):
            log.warning(line)
    Store(settings.store).check_writable()
    run.progress = progress = ReadableProgress(run.progress)
    problem: BaseException | None = None
    try:
        with in_run_log(log), live_artifact(progress):
            run_in_flow(run)
    except BaseException as error:
        problem = error
        raise
    finally:
        for line in reason_lines(Store(settings.store), [result.stage for result in run.results]):
            log.warning(line)
        try:
            leave_summary(run, problem)
        except Exception:  # such as an unreachable server; the run's own error matters more
            log.warning("expected Prefect's server to save the run's summary, got an error", exc_info=True)


def run_in_flow(run: Run) -> None:
    """Run stages in the current flow run, with their jobs as tasks."""
    settings = run.plan.settings
    with (
        task_runner(settings) as runner,
        watching_server(run.stop),
        relaying_progress(runner, settings, run.progress, run.stop) as channel,
    ):
        try:
            run_stages(run, _as_tasks(runner, channel))
        except BaseException:
            # Only the waiting thread is interrupted. The threads in work check this event between batches.
            run.stop.set()
            raise


class Job:
    """One or several shards of a stage, or another job of it, with all that it needs. It is not a dataclass, because
    Prefect searches dataclasses for futures, at any depth."""

    def __init__(
        self, stage: ConfiguredStage, context: Context, names: Sequence[str], channel: Channel | None = None
    ) -> None:
        self.stage, self.context, self.names, self.channel = stage, context, names, channel

    def __str__(self) -> str:
        others = f" and {len(self.names) - 1} more" if len(self.names) > 1 else ""
        return f"{self.stage.name} {self.names[0]}{others}"


class ShardsFailed(Exception):
    """Some shards of a job failed; `results` has the result of each shard."""

    def __init__(self, results: Sequence[JobResult]) -> None:
        super().__init__(results)
        self.results = results

    def __str__(self) -> str:
        return "; ".join(f"{each.job}: {each.error}" for each in self.results if each.error is not None)


def _retry_condition(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Return whether Prefect should retry a failed task: whether its error, or that of one of its shards, may pass."""
    try:
        state.result()
    except ShardsFailed as failed:
        return any(is_transient(each.error) for each in failed.results if each.error is not None)
    except BaseException as error:
        return is_transient(error)
    return False


@task(
    name="shard",
    task_run_name="{job}",
    retries=len(RETRY_DELAYS),
    retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=_retry_condition,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def do_job(job: Job) -> Sequence[JobResult]:
    """Do some shards, or a whole stage that is not made shard by shard.

    Raises:
        ShardsFailed: some shards failed; the others are done.
    """
    with (
        nullcontext(job.context)
        if job.channel is None
        else connected_to_run(job.channel, str(job), job.context) as context
    ):
        results = run_one_by_one(job.stage, context, job.names)
    if any(each.error is not None for each in results):
        raise ShardsFailed(results)
    return results


def _as_tasks(runner: TaskRunner[Any], channel: Channel | None) -> RunJobs:
    """Return a function that does jobs as Prefect tasks on a running task runner."""

    def run_jobs(stage: ConfiguredStage, context: Context, jobs: Sequence[str]) -> Sequence[JobResult]:
        wants_gpu = stage.name in GPU_STAGES
        sized = sized_jobs(stage, context, jobs, places(runner, context.settings, wants_gpu))
        with placement(context.settings, wants_gpu):
            futures = [runner.submit(do_job, {"job": Job(stage, context, names, channel)}) for names in sized]
        return [result for names, future in zip(sized, futures, strict=True) for result in _results(names, future)]

    return run_jobs


def _results(names: Sequence[str], future: Any) -> Sequence[JobResult]:
    """Return the results of a task; if it failed as a whole, one error for each of its jobs."""
    try:
        results: Sequence[JobResult] = future.result()
    except ShardsFailed as failed:  # failures are collected, and the stage fails at its end
        results = failed.results
    except Exception as error:  # such as a lost worker
        results = [JobResult(name, error=error) for name in names]
    return results
