"""Previews of a plan: given once everything that the stage reads exists, and not before."""

from pathlib import Path
from types import ModuleType

from schemas import Settings
from schemas.tables import CHECKPOINTS, CHROMA
from stages.pipeline.contract import Preview, ReduceResult
from stages.pipeline.pipeline import Pipeline
from stages.pipeline.planning import plan_pipeline, preview_stages
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.remarks import Remark
from tests.worlds.tiny_stages import Knobs, make_mapping, make_pipeline, run


def make_counting() -> ModuleType:
    """A stage over the whole set that states how many rows it would process."""
    module = ModuleType("counting")
    module.READS, module.WRITES, module.VERSION = (CHROMA,), CHECKPOINTS, 1

    def preview(config, context):
        rows = context.rows(CHROMA).num_rows
        return Preview([f"{rows} rows"], [Remark("rows", "", rows, ())])

    module.preview, module.reduce = preview, lambda config, context, chroma: ReduceResult([])
    return module


def test_a_stage_is_previewed_once_its_input_is_made(tmp_path: Path) -> None:
    stages = [*make_pipeline(tmp_path, list("abcd"), make_mapping([])).stages.values()]
    counting = ConfiguredStage("counting", make_counting(), Knobs())

    def previews() -> dict[str, Preview]:
        pipeline = Pipeline([*stages, counting], Settings(store=str(tmp_path)))
        names = list(pipeline.stages)
        return preview_stages(pipeline, plan_pipeline(pipeline, names, by_name=True))

    assert previews() == {}
    run(make_pipeline(tmp_path, list("abcd"), make_mapping([])))
    assert previews() == {"counting": Preview(["4 rows"], [Remark("rows", "", 4, ())])}
