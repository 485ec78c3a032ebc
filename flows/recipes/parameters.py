"""What a flow run is asked for: its own parameters merged over those of its deployment, and the form for them.

Prefect merges a run's parameters with its deployment's only at the top level: a run with `settings: {max_refused: 0.6}`
would lose the deployment's store. And Prefect's form posts every default in the schema; as explicit values these would
override the preset. So the schema has no defaults (what is not given is as the preset says), and a run's parameters are
merged over the deployment's field by field before the whole is validated.
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
    """An annotation that makes the JSON schema of a parameter a form in which only a deployment's values are filled in.
    Groups of fields have the field's name as their title."""

    model: type[Config]
    """The parameter's model. The parameter itself is not validated, so its own schema has no docstrings."""
    first: str | None = None
    """The field to show first, after the preset."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        form = handler(schema)
        _empty(form, handler, seen=[])
        properties = handler.resolve_ref_schema(form)["properties"]
        for position, (name, field) in enumerate(properties.items(), start=2):
            field["position"] = {"preset": 0, self.first: 1}.get(name, position)
            stage = _summary(STAGES[name].__doc__ or "") if name in STAGES else ""
            if text := stage or field_docstrings(self.model).get(name):
                field["description"] = text
        return form


def _empty(schema: Any, handler: GetJsonSchemaHandler, seen: list[Any]) -> None:
    """Remove from a schema, and from all schemas it refers to, whatever Prefect's form would post for a field that
    nobody touched: its default, or `false` for a switch. Groups get the field's name as their title. (For an object
    with arbitrary keys the form posts a mark, which Prefect's server removes.)"""
    if isinstance(schema, list):
        for branch in schema:
            _empty(branch, handler, seen)
    if not isinstance(schema, dict):
        return
    if "$ref" in schema:
        definition = handler.resolve_ref_schema({"$ref": schema["$ref"]})
        if not any(definition is known for known in seen):
            seen.append(definition)
            _empty(definition, handler, seen)
    properties = schema.get("properties", {})
    for name, field in properties.items():
        field.pop("default", None)
        field["title"] = name
        if field.get("type") == "boolean":
            del field["type"]  # otherwise the form has a switch, which is always on or off
            field["enum"] = [True, False]
    for below in (*properties.values(), *(schema[key] for key in _BELOW if key in schema)):
        _empty(below, handler, seen)


_BELOW = ("items", "prefixItems", "anyOf", "oneOf", "allOf", "additionalProperties")
"""The keys of a JSON schema that hold other schemas, besides `properties`."""


def _summary(docstring: str) -> str:
    return " ".join(docstring.partition("\n\n")[0].split())


RecipeParameter = Annotated[Recipe, SkipValidation, Form(Recipe)]
SettingsParameter = Annotated[Settings, SkipValidation, Form(Settings)]
"""Parameters of a flow as they are given: a model or the difference from one. `asked_for` validates them as a whole."""


@dataclass(frozen=True)
class Asked:
    """What a flow run is asked to make, and where and with which resources."""

    recipe: Recipe
    settings: Settings


def asked_for(recipe: Any, settings: Any) -> Asked:
    """Return what a flow run is asked for: its parameters merged over those of its deployment, if it has one.

    Args:
        recipe: a `Recipe`, or the difference from one that the run was given.
        settings: `Settings`, or the difference from them that the run was given.

    Raises:
        ValueError: a field is unknown or its value not allowed, or neither the run nor its deployment names a store.
    """
    deployment = _deployment()
    if deployment is not None:
        recipe, settings = (
            _over_deployment(deployment, *part) for part in (("recipe", recipe), ("settings", settings))
        )
        if not settings.get("store"):
            raise ValueError(
                "expected settings.store, the folder or URL of the store, got none: give it in the parameters of "
                f"this run, or of the deployment {deployment.name} in prefect.yaml (then run `prefect deploy --all`)"
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
    """Return the name of the current flow run: what it runs, with which preset, and when."""
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow is not None
    assert context.flow_run is not None
    parameters = context.parameters or {}
    recipe = _over_deployment(_deployment(), "recipe", parameters.get("recipe", {}))
    stages = parameters.get("stages")
    what = " ".join(stages) if stages else context.flow.name
    preset = recipe.get("preset", Recipe.model_fields["preset"].default)
    return f"{what} {preset} {context.flow_run.expected_start_time:%Y-%m-%d %H:%M}"


def settings_of(flow_run: FlowRun) -> dict[str, Any]:
    """Return the settings of a flow run, merged over those of its deployment, as they were given (not validated)."""
    return _over_deployment(_deployment_of(flow_run), "settings", (flow_run.parameters or {}).get("settings") or {})


def _deployment() -> DeploymentResponse | None:
    """Return the deployment of the current flow run; None if it has none."""
    context = FlowRunContext.get()
    return None if context is None or context.flow_run is None else _deployment_of(context.flow_run)


def _deployment_of(flow_run: FlowRun) -> DeploymentResponse | None:
    if flow_run.deployment_id is None:
        return None
    with get_client(sync_client=True) as client:
        return client.read_deployment(flow_run.deployment_id)


def _over_deployment(deployment: DeploymentResponse | None, name: str, given: Any) -> dict[str, Any]:
    """Return the parameter `name` of a deployment with a run's own value merged over it."""
    own = deployment.parameters.get(name) if deployment else None
    whole: dict[str, Any] = merge({name: own or {}}, {name: given})[name]
    return whole
