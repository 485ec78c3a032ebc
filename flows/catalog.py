"""The whole catalog as one Prefect flow: from recordings to a catalog of generated clips.

Stages are plain functions whose stale shards are tasks, not flows of their own: a flow costs a second, and a night on
which nothing changed should cost none. A task is a shard (1 to 30 minutes of work), never a track. Prefect's database
is never the record of what is done: that is in the store. So results are neither cached nor persisted by Prefect, and a
job may run twice, even at the same time.
"""

from collections.abc import Sequence
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger
from prefect.task_runners import TaskRunner
from prefect.tasks import Task

from flows.clusters import Channel, hearing_workers, placement, task_runner, telling_run
from flows.estimates import estimate
from flows.failures import is_transient
from flows.notifying import sender, tell_failure
from flows.parameters import RecipeParameter, SettingsParameter, asked_for, run_name
from flows.progress import LineProgress
from flows.progress_artifact import ReadableProgress, moving_artifact
from flows.reasons import reason_lines
from flows.recipe import GPU_STAGES, StageName
from flows.run_log import in_run_log
from flows.running import Run, current_run, plan_run, run_stages
from flows.summary import leave_summary
from flows.suspending import ask_on_page
from flows.upgrading import settled_plan
from flows.watching import heeding_server
from schemas import Store
from stages.pipeline.contract import Context
from stages.pipeline.jobs import Counts, JobResult, run_job
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import RunJobs

RETRY_DELAYS = [2.0, 10.0, 30.0]
"""Seconds before each new try of a shard that failed for a passing reason."""


@flow(
    name="catalog", flow_run_name=run_name, persist_result=False, on_failure=[tell_failure], on_crashed=[tell_failure]
)
def catalog(*, stages: list[StageName] | None = None, settings: SettingsParameter, recipe: RecipeParameter) -> None:
    """Run the whole catalog, or some of its stages.

    Args:
        stages: Names of the stages to run; none means all.
        settings: Where and by what means; what is not given is as the deployment says.
        recipe: What is made: a preset, and what differs from it; what is not given is as the deployment and the preset
            say.
    """
    run_recipe(recipe, settings, stages)


def run_recipe(recipe: RecipeParameter, settings: SettingsParameter, requested: Sequence[str] | None) -> None:
    """Run stages of a recipe inside a flow; how far it is and what came of it are artifacts of the run.

    Args:
        recipe, settings: parameters of the flow run as it was given them.
        requested: names of the stages to run; none means all.

    Raises:
        StageFailed: a stage did not do all that it had to do; what it did is kept.
        UpgradeWaits: a release changed a stage, and nobody has said what is to become of what it made.
        ValueError: weights or settings that the stages need are missing, or the store cannot be written.
    """
    asked = asked_for(recipe, settings)
    recipe, settings = asked.recipe, asked.settings
    if settings.on_failure:
        sender(settings.on_failure)  # raises now, not in the night in which it is wanted
    log = get_run_logger()
    run = current_run.get()
    if run is None:
        settled = settled_plan(plan_run(recipe, settings, requested), ask_on_page)
        for line in settled.lines:
            log.warning(line)
        lines = LineProgress(log.info)
        lines.expect(estimate(settled.plan.pipeline(), settled.stage_plans))
        run = Run(settled.plan, settled.stage_plans, progress=lines)
    Store(settings.store).check_writable()
    run.progress = progress = ReadableProgress(run.progress)
    problem: BaseException | None = None
    try:
        with in_run_log(log), moving_artifact(progress):
            run_in_flow(run)
    except BaseException as error:
        problem = error
        raise
    finally:
        for line in reason_lines(Store(settings.store), [result.stage for result in run.results]):
            log.warning(line)
        try:
            leave_summary(run, problem)
        except Exception:  # such as of a server that is away, which is not what the run ended for
            log.warning("expected Prefect's server to keep the run's summary, got none of it kept", exc_info=True)


def run_in_flow(run: Run) -> None:
    """Run stages with their jobs as tasks of the flow run that this is called in."""
    settings = run.plan.settings
    with (
        task_runner(settings) as runner,
        heeding_server(run.stop),
        hearing_workers(runner, settings, run.progress, run.stop) as channel,
    ):
        try:
            run_stages(run, _as_tasks(runner, channel))
        except BaseException:
            # Whoever waits is interrupted, not the threads in work: they look at this between batches.
            run.stop.set()
            raise


class Job:
    """One job of a stage, with all that it needs. Not a dataclass: Prefect searches those for futures, deep down."""

    def __init__(self, stage: ConfiguredStage, context: Context, name: str, channel: Channel | None = None) -> None:
        self.stage, self.context, self.name, self.channel = stage, context, name, channel

    def __str__(self) -> str:
        return f"{self.stage.name} {self.name}"


def _retry_condition(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    try:
        state.result()
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
def do_job(job: Job) -> Counts:
    """Do one shard, or all of a stage that is not made shard by shard."""
    if job.channel is None:
        return run_job(job.stage, job.context, job.name)
    with telling_run(job.channel, str(job), job.context) as context:
        return run_job(job.stage, context, job.name)


def _as_tasks(runner: TaskRunner[Any], channel: Channel | None) -> RunJobs:
    """Return what does jobs as Prefect tasks on a running task runner."""

    def run_jobs(stage: ConfiguredStage, context: Context, jobs: Sequence[str]) -> Sequence[JobResult]:
        with placement(context.settings, stage.name in GPU_STAGES):
            futures = [runner.submit(do_job, {"job": Job(stage, context, name, channel)}) for name in jobs]
        return [_job_result(name, future) for name, future in zip(jobs, futures, strict=True)]

    return run_jobs


def _job_result(name: str, future: Any) -> JobResult:
    try:
        return JobResult(name, future.result())
    except Exception as error:  # every job's failure is collected, and the stage fails for it in the end
        return JobResult(name, error=error)
