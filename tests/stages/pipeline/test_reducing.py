"""Stages that reduce: their results are made from exactly the rows of the plan."""

from pathlib import Path

import pytest

from schemas.tables import CHROMA
from stages.pipeline.jobs import run_job
from stages.pipeline.pipeline import Pipeline
from stages.pipeline.plans import ConfiguredStage
from tests.worlds.tiny_stages import Training, make_mapping, make_pipeline, make_training, run


def test_a_job_fails_if_rows_have_gone_since_the_plan(tmp_path: Path) -> None:
    calls: list[str] = []
    mapped = make_pipeline(tmp_path, list("abcdefg"), make_mapping([]))
    run(mapped)
    stage = ConfiguredStage("training", make_training(calls), Training())
    pipeline = Pipeline([*mapped.stages.values(), stage], mapped.settings)
    context = pipeline.context("training", "r2")
    first, *others = pipeline.store.shards(CHROMA, context.versions["chroma"])
    assert others
    pipeline.store.remove_shard(CHROMA, context.versions["chroma"], first)
    with pytest.raises(OSError, match="expected chroma as they were when training was planned"):
        run_job(stage, context, "0")
    assert calls == []
