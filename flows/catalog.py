"""The whole catalog as one Prefect flow: from recordings to a catalog of generated clips.

Stages are plain functions whose stale shards are tasks, not flows of their own: a flow costs a second, and a night on
which nothing changed should cost none.
"""

from collections.abc import Sequence

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.logging import get_run_logger

from flows.output import LineProgress, result_rows
from flows.recipe import Recipe, StageName, selected_stages, with_source
from flows.running import Run, current_run, run_stages
from flows.tasks import as_tasks, task_runner
from schemas import Settings, Store
from stages.pipeline.planning import ConfiguredStage


def run_recipe(recipe: Recipe, settings: Settings, requested: Sequence[str] | None) -> None:
    """Run stages of a recipe inside a flow, and leave the run's table as an artifact.

    Raises:
        StageFailed: a stage did not do all that was asked; what it did is kept.
        ValueError: weights or settings that the stages need are missing, or the store cannot be written.
    """
    stages = recipe.configured_stages(settings.source)
    names = selected_stages(stages, requested, recipe.preset)
    settings = with_source(settings, names, [stage.name for stage in stages])
    Store(settings.store).check_writable()
    run = current_run.get() or Run(progress=LineProgress(get_run_logger().info))
    try:
        run_in_flow(stages, settings, names, bool(requested), run)
    finally:
        create_table_artifact(
            key="segue-run", table=result_rows(run.results), description=f"Run {run.run_id} in {settings.store}"
        )


def run_in_flow(
    stages: Sequence[ConfiguredStage], settings: Settings, names: Sequence[str], asked: bool, run: Run
) -> None:
    """Run stages with their jobs as tasks of the flow run that this is called in."""
    with task_runner(settings) as runner:
        try:
            run_stages(stages, settings, names, asked, run, as_tasks(runner))
        except BaseException:
            # Whoever waits is interrupted, not the threads in work: they look at this between batches.
            run.stop.set()
            raise


@flow(name="catalog", flow_run_name="catalog {recipe.preset} into {settings.store}", persist_result=False)
def catalog(recipe: Recipe = Recipe(), settings: Settings = Settings(), stages: list[StageName] | None = None) -> None:
    """The whole catalog, or some of its stages.

    Args:
        recipe: what is made: a preset, and what differs from it.
        settings: where and by what means.
        stages: names of the stages to run; none means all.
    """
    run_recipe(recipe, settings, stages)
