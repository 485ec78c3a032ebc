"""A Prefect flow for each stage, `flows.single.<stage>`, so that one can be rerun by itself, as it runs within the
catalog."""

from typing import Any

from prefect import Flow, flow

from flows.catalog import run_recipe
from flows.recipe import STAGES, Recipe
from schemas import Settings


def _flow_of(stage: str) -> Flow[Any, None]:
    def run(recipe: Recipe = Recipe(), settings: Settings = Settings()) -> None:
        run_recipe(recipe, settings, [stage])

    run.__doc__ = f"{STAGES[stage].__doc__}\n\nArgs:\n    recipe: what is made.\n    settings: where and by what means."
    name = f"{stage} {{recipe.preset}} into {{settings.store}}"
    return flow(name=stage, flow_run_name=name, persist_result=False)(run)


globals().update({stage: _flow_of(stage) for stage in STAGES})
