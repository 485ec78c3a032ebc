"""What a flow run is asked for: the parameters it was given, laid over those of its deployment, and the form for them.

Prefect merges a run's parameters with its deployment's at the top level only: a run with `settings: {max_refused: 0.6}`
would lose the deployment's store. And its form posts every default that a schema names: as explicit values they would
beat the preset. So the schema names none (what is not given is as the preset says), and what came is laid over the
deployment's own field by field, before it is validated as a whole.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.context import FlowRunContext
from pydantic import GetJsonSchemaHandler, SkipValidation, ValidationError
from pydantic_core import CoreSchema

from flows.recipes.merging import merge
from flows.recipes.overrides import explain
from flows.recipes.recipe import STAGES, Recipe
from schemas import Config, Settings
from schemas.config import field_docstrings


@dataclass(frozen=True)
class Form:
    """An annotation: the JSON schema of a parameter as a form in which nothing is filled in but what a deployment says,
    its groups named for their fields."""

    model: type[Config]
    """Of the parameter; its schema is asked for past it, as it is not to validate, and so without its docstrings."""
    first: str | None = None
    """The field that comes first, after the preset."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        form = handler(schema)
        _empty(form, handler, done=[])
        properties = handler.resolve_ref_schema(form)["properties"]
        for position, (name, field) in enumerate(properties.items(), start=2):
            field["position"] = {"preset": 0, self.first: 1}.get(name, position)
            stage = _summary(STAGES[name].__doc__ or "") if name in STAGES else ""
            if text := stage or field_docstrings(self.model).get(name):
                field["description"] = text
        return form


def _empty(schema: Any, handler: GetJsonSchemaHandler, done: list[Any]) -> None:
    """Take out of a schema, and of all that it refers to, whatever Prefect's form would post of a field that nobody
    touched: its default, and `false` of a switch. Groups are named for their fields. (Of an object of any keys it posts
    a mark that Prefect's server takes away.)"""
    if isinstance(schema, list):
        for branch in schema:
            _empty(branch, handler, done)
    if not isinstance(schema, dict):
        return
    if "$ref" in schema:
        definition = handler.resolve_ref_schema({"$ref": schema["$ref"]})
        if not any(definition is known for known in done):
            done.append(definition)
            _empty(definition, handler, done)
    properties = schema.get("properties", {})
    for name, field in properties.items():
        field.pop("default", None)
        field["title"] = name
        if field.get("type") == "boolean":
            del field["type"]  # of which a form makes a switch, which is always on or off
            field["enum"] = [True, False]
    for below in (*properties.values(), *(schema[key] for key in _BELOW if key in schema)):
        _empty(below, handler, done)


_BELOW = ("items", "prefixItems", "anyOf", "oneOf", "allOf", "additionalProperties")
"""Where a JSON schema has others in it, but for its properties."""


def _summary(docstring: str) -> str:
    return " ".join(docstring.partition("\n\n")[0].split())


RecipeParameter = Annotated[Recipe, SkipValidation, Form(Recipe)]
SettingsParameter = Annotated[Settings, SkipValidation, Form(Settings)]
"""Parameters of a flow as they come, a model or the difference from one: `asked_for` validates them as a whole."""


@dataclass(frozen=True)
class Asked:
    """What a flow run makes, where and by what means."""

    recipe: Recipe
    settings: Settings


def asked_for(recipe: Any, settings: Any) -> Asked:
    """Return what a flow run is asked for: its parameters over those of its deployment, where it is of one.

    Args:
        recipe: a `Recipe`, or the difference that the run was given.
        settings: `Settings`, or the difference that the run was given.

    Raises:
        ValueError: a field is unknown or its value not allowed, or a run of a deployment names no store.
    """
    deployment = _deployment()
    if deployment is not None:
        recipe, settings = (_laid_over(deployment, *part) for part in (("recipe", recipe), ("settings", settings)))
        if not settings.get("store"):
            raise ValueError(
                "expected settings.store, the folder or URL of the store, got none: name it among the parameters of "
                f"this run, or of the deployment {deployment.name} in prefect.yaml (and then `prefect deploy --all`)"
            )
    try:
        settings = Settings.model_validate(settings)
    except ValidationError as error:
        raise ValueError(explain(error, Settings, "settings.")) from error
    try:
        return Asked(Recipe.model_validate(recipe), settings)
    except ValidationError as error:
        raise ValueError(explain(error, Recipe)) from error


def run_name() -> str:
    """Return the name of the flow run at hand: what it runs, by which preset, and when."""
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow is not None
    assert context.flow_run is not None
    parameters = context.parameters or {}
    recipe = _laid_over(_deployment(), "recipe", parameters.get("recipe", {}))
    stages = parameters.get("stages")
    what = " ".join(stages) if stages else context.flow.name
    preset = recipe.get("preset", Recipe.model_fields["preset"].default)
    return f"{what} {preset} {context.flow_run.expected_start_time:%Y-%m-%d %H:%M}"


def settings_of(flow_run: FlowRun) -> dict[str, Any]:
    """Return the settings that a flow run was asked for, over those of its deployment, as they are given."""
    return _laid_over(_deployment_of(flow_run), "settings", (flow_run.parameters or {}).get("settings") or {})


def _deployment() -> DeploymentResponse | None:
    """Return the deployment of the flow run at hand; None where it has none."""
    context = FlowRunContext.get()
    return None if context is None or context.flow_run is None else _deployment_of(context.flow_run)


def _deployment_of(flow_run: FlowRun) -> DeploymentResponse | None:
    if flow_run.deployment_id is None:
        return None
    with get_client(sync_client=True) as client:
        return client.read_deployment(flow_run.deployment_id)


def _laid_over(deployment: DeploymentResponse | None, name: str, given: Any) -> dict[str, Any]:
    """Return the parameter `name` of a deployment with what a run was given laid over it."""
    own = deployment.parameters.get(name) if deployment else None
    whole: dict[str, Any] = merge({name: own or {}}, {name: given})[name]
    return whole
