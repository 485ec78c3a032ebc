"""Jobs as Prefect tasks: what is tried again, and what does them.

A task is a shard (1 to 30 minutes of work), never a track, and only what is stale becomes one. Prefect's database is
never the record of what is done: that is in the store. So results are neither cached nor persisted by Prefect, and a
job may run twice, even at the same time.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.settings import PREFECT_API_URL
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.tasks import Task

from flows.failures import is_transient
from flows.recipe import GPU_STAGES
from flows.running import Execute, Outcome
from schemas import Settings
from stages.pipeline.contract import Context
from stages.pipeline.planning import ConfiguredStage
from stages.pipeline.runner import Counts, run_job

RETRY_DELAYS = [2.0, 10.0, 30.0]
"""Seconds before each new try of a shard that failed for a passing reason."""


class Job:
    """One job of a stage, with all that it needs. Not a dataclass: Prefect searches those for futures, deep down."""

    def __init__(self, stage: ConfiguredStage, context: Context, name: str) -> None:
        self.stage, self.context, self.name = stage, context, name

    def __str__(self) -> str:
        return f"{self.stage.name} {self.name}"


def _try_again(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
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
    retry_condition_fn=_try_again,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def do_job(job: Job) -> Counts:
    """One shard, or all of a stage that is not made shard by shard."""
    return run_job(job.stage, job.context, job.name)


def task_runner(settings: Settings) -> TaskRunner[Any]:
    """What does the jobs: threads, or the workers of a Dask cluster.

    Raises:
        ValueError: Dask is asked for without the package or without a Prefect server that its workers can reach.
    """
    if settings.task_runner == "threads":
        return ThreadPoolTaskRunner(max_workers=settings.concurrency)
    try:
        from prefect_dask import DaskTaskRunner
    except ImportError as error:
        raise ValueError("settings.task_runner=dask expects the packages of segue[dask], got none") from error
    if not PREFECT_API_URL.value():
        raise ValueError(
            "settings.task_runner=dask expects a Prefect server that the workers can reach: start one with "
            "`prefect server start` and set PREFECT_API_URL"
        )
    if settings.dask_address:
        return DaskTaskRunner(address=settings.dask_address)
    resources = {"GPU": 1} if settings.device == "cuda" else {}
    return DaskTaskRunner(
        cluster_kwargs={"n_workers": settings.concurrency, "threads_per_worker": 1, "resources": resources}
    )


def as_tasks(runner: TaskRunner[Any]) -> Execute:
    """Do jobs as Prefect tasks on a running task runner."""

    def execute(stage: ConfiguredStage, context: Context, jobs: Sequence[str]) -> list[Outcome]:
        with _placement(stage, context.settings):
            futures = [runner.submit(do_job, {"job": Job(stage, context, name)}) for name in jobs]
        return [_outcome(name, future) for name, future in zip(jobs, futures, strict=True)]

    return execute


def _placement(stage: ConfiguredStage, settings: Settings) -> AbstractContextManager[Any]:
    """Where on a Dask cluster a stage's jobs may go: those that want a GPU, only to workers that offer one."""
    if settings.task_runner != "dask" or settings.device != "cuda" or stage.name not in GPU_STAGES:
        return nullcontext()
    import dask

    return dask.annotate(resources={"GPU": 1})


def _outcome(name: str, future: Any) -> Outcome:
    try:
        return Outcome(name, future.result())
    except Exception as error:  # every job's failure is collected, and the stage fails for it in the end
        return Outcome(name, error=error)
