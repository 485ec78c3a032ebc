"""A flow of the two tiny stages, run in the same way as the catalog's flow."""

import json
import sys

from prefect import flow

from flows.catalog import run_in_flow
from flows.runs.running import Run, RunPlan
from schemas import Settings
from stages.pipeline.plans import ConfiguredStage
from tests.worlds import tiny_mapping, tiny_source

CONFIGURED = [
    ConfiguredStage("ingest", tiny_source, tiny_source.Config()),
    ConfiguredStage("chroma", tiny_mapping, tiny_mapping.Config()),
]
NAMES = [stage.name for stage in CONFIGURED]


@flow(persist_result=False)
def tiny(settings: Settings) -> None:
    run_in_flow(Run(RunPlan(CONFIGURED, NAMES, settings), run_id="tiny"))


if __name__ == "__main__":
    tiny(Settings(store=sys.argv[1], source=sys.argv[2], **json.loads(sys.argv[3])))
