"""Previews: what the stages of a plan would work on, where that is there to be looked at."""

from collections.abc import Sequence

from stages.pipeline.contract import Preview
from stages.pipeline.pipeline import Pipeline
from stages.pipeline.plans import Plan


def preview_stages(pipeline: Pipeline, plans: Sequence[Plan]) -> dict[str, Preview]:
    """Return the previews of those stages of a plan that have one, by name; none where a table that the stage reads is
    still to be made by another stage of the plan.

    Raises:
        ValueError: a shard of a table cannot be read.
    """
    working = {plan.stage for plan in plans if plan.jobs or plan.gone}
    previews = {}
    for plan in plans:
        stage = pipeline.stages[plan.stage]
        if not hasattr(stage.module, "preview") or plan.estimated:
            continue
        writers = {writer.name for table in pipeline.reads(plan.stage) if (writer := pipeline.writer(table))}
        if not writers & working:
            previews[plan.stage] = stage.module.preview(stage.config, pipeline.context(plan.stage, run_id="plan"))
    return previews
