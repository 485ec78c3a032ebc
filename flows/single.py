"""A Prefect flow for each stage, `flows.single.<stage>`, to run a stage alone as it runs in the whole pipeline.

A flow is made when it is asked for. Prefect describes the parameters of each flow in a schema that takes a third of a
second to make, and running one stage needs only one of some twenty flows.
"""

from typing import Annotated, Any

from prefect import Flow, flow
from pydantic import SkipValidation

from flows.catalog import run_recipe
from flows.recipes.parameters import Form, SettingsParameter, run_name
from flows.recipes.recipe import STAGES, Recipe
from flows.service.notifying import tell_failure

PARAMETERS = """Args:
    settings: Where the data is and how the run works; what is left out comes from the deployment.
    recipe: What is made: a preset, and changes to it; what is left out comes from the deployment and the preset.
"""


def _flow_of(stage: str) -> Flow[Any, None]:
    def run(settings: SettingsParameter, recipe: Annotated[Recipe, SkipValidation, Form(Recipe, first=stage)]) -> None:
        run_recipe(recipe, settings, [stage])

    run.__doc__ = f"{STAGES[stage].__doc__}\n\n{PARAMETERS}"
    return flow(
        name=stage, flow_run_name=run_name, persist_result=False, on_failure=[tell_failure], on_crashed=[tell_failure]
    )(run)


def __getattr__(name: str) -> Flow[Any, None]:
    """Return the flow of a stage, and keep it for the next access.

    Raises:
        AttributeError: no stage has that name.
    """
    if name not in STAGES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, _flow_of(name))  # type: ignore[no-any-return]


def __dir__() -> list[str]:
    return sorted({*globals(), *STAGES})
