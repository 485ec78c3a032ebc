"""A Prefect flow for each stage, `flows.single.<stage>`, so that a stage can be rerun by itself as it runs in the whole
pipeline."""

from typing import Annotated, Any

from prefect import Flow, flow
from pydantic import SkipValidation

from flows.catalog import run_recipe
from flows.recipes.parameters import Form, SettingsParameter, run_name
from flows.recipes.recipe import STAGES, Recipe
from flows.service.notifying import tell_failure

PARAMETERS = """Args:
    settings: Where and by what means; what is not given is as the deployment says.
    recipe: What is made: a preset, and what differs from it; what is not given is as the deployment and the preset say.
"""


def _flow_of(stage: str) -> Flow[Any, None]:
    def run(settings: SettingsParameter, recipe: Annotated[Recipe, SkipValidation, Form(Recipe, first=stage)]) -> None:
        run_recipe(recipe, settings, [stage])

    run.__doc__ = f"{STAGES[stage].__doc__}\n\n{PARAMETERS}"
    return flow(
        name=stage, flow_run_name=run_name, persist_result=False, on_failure=[tell_failure], on_crashed=[tell_failure]
    )(run)


globals().update({stage: _flow_of(stage) for stage in STAGES})
