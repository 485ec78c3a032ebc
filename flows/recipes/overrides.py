"""`--set stage.field=value`: command-line arguments as a difference from a recipe, and pydantic's errors as one line.

A value is read as JSON if it parses and the field is not text, so `--set train.steps=100` is a number and
`--set generate.checkpoint=1e9` a name.
"""

import json
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from flows.recipes.knobs import knobs_named, unknown_field, where_it_is
from schemas import WeightsRef
from schemas.names import did_you_mean

AS_JSON = {
    **dict.fromkeys(("tuple_type", "list_type", "set_type"), 'expected a JSON list such as ["first","second"]'),
    **dict.fromkeys(("dict_type", "mapping_type"), 'expected a JSON object such as {"name": …}'),
    **dict.fromkeys(("model_type", "model_attributes_type"), "expected a JSON object, or one of its fields by name"),
}
"""How to write a valid list or object on a command line, by the type of pydantic's error."""

MOST_ERRORS = 3
"""Most errors that are listed in one line."""


def parse_overrides(pairs: Sequence[str], models: Mapping[str, type[BaseModel]]) -> dict[str, dict[str, Any]]:
    """Return the difference that the `stage.field=value` arguments of a command line ask for, by stage.

    Args:
        models: the configuration behind each first name of a path (`settings`, `ingest`, `train` …).

    Raises:
        ValueError: an argument has another form, or names no field; the message names what is allowed.
    """
    difference: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        path, equals, text = pair.partition("=")
        names = path.strip().split(".")
        if not equals or len(names) < 2:
            meant = knobs_named(names, models)
            where = f"; {where_it_is(meant)}" if meant else ""
            raise ValueError(f"expected --set stage.field=value, got {pair!r}{where}")
        if names[0] not in models:
            meant = knobs_named(names, models)
            near = f": {where_it_is(meant)}" if meant else did_you_mean(names[0], models)
            raise ValueError(f"unknown stage {names[0]!r} in --set {pair}{near}; allowed: {', '.join(models)}")
        annotation = _field_at(names, models, pair)
        level: dict[str, Any] = difference.setdefault(names[0], {})
        for name in names[1:-1]:
            if not isinstance(level.get(name), dict):
                level[name] = {}
            level = level[name]
        level[names[-1]] = _value(text, annotation)
    return difference


def explain(error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    """Return one line that says what is wrong with values, with the fields and what is allowed.

    Args:
        prefix: the path of `model` with a dot at its end; empty for a recipe.
    """
    messages: list[str] = []
    for problem in error.errors()[:MOST_ERRORS]:
        names = [str(name) for name in problem["loc"]]
        if problem["type"] == "extra_forbidden":
            parent = _model_at(model, names[:-1])
            whole = [*prefix.split(".")[:-1], *names]
            roots = {prefix.rstrip("."): model} if prefix else _sections(model)
            messages.append(unknown_field(whole, list(parent.model_fields) if parent else [], roots))
            continue
        explanation = problem["msg"].removeprefix("Value error, ").replace("Input should be", "expected", 1)
        message = AS_JSON.get(problem["type"], explanation)
        got = "" if isinstance(problem["input"], Mapping | BaseModel) else f", got {problem['input']!r}"
        path = f"{prefix}{'.'.join(names)}".rstrip(".")
        messages.append(f"{path}: {message}{got}" if path else message)
    rest = error.error_count() - len(messages)
    return " ".join("; ".join(messages).split()) + (f"; and {rest} more" if rest > 0 else "")


def _field_at(names: Sequence[str], models: Mapping[str, type[BaseModel]], pair: str) -> Any:
    """Return the annotation of the field at the end of a path; the path's first name is one of `models`."""
    current: type[BaseModel] | None = models[names[0]]
    annotation: Any = current
    for position, name in enumerate(names[1:], start=1):
        where = ".".join(names[:position])
        if current is None:
            if _is_mapping(annotation):
                return Any
            raise ValueError(f"{where} in --set {pair} has no fields: give it a value")
        if name not in current.model_fields:
            raise ValueError(
                f"{unknown_field(names[: position + 1], list(current.model_fields), models)} (--set {pair})"
            )
        annotation = current.model_fields[name].annotation
        current = model_in(annotation)
    return annotation


def _model_at(model: type[BaseModel], names: Sequence[str]) -> type[BaseModel] | None:
    """Return the configuration at a path in pydantic's form, which also names the branches of unions."""
    current: type[BaseModel] | None = model
    for name in names:
        if current is not None and name in current.model_fields:
            current = model_in(current.model_fields[name].annotation)
    return current


def _sections(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Return the configurations directly inside one, by field."""
    inner = {name: model_in(field.annotation) for name, field in model.model_fields.items()}
    return {name: section for name, section in inner.items() if section is not None}


def _branches(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the configuration class that a field's value may have; None if it has none."""
    for branch in _branches(annotation):
        if isinstance(branch, type) and issubclass(branch, BaseModel):
            return branch
    return None


def _is_mapping(annotation: Any) -> bool:
    return any(get_origin(branch) in (dict, Mapping) or branch is dict for branch in _branches(annotation))


def _is_text(branch: Any) -> bool:
    if get_origin(branch) is Literal:
        return all(isinstance(value, str) for value in get_args(branch))
    return isinstance(branch, type) and issubclass(branch, str)


def _value(text: str, annotation: Any) -> Any:
    branches = _branches(annotation)
    wanted = [branch for branch in branches if branch is not type(None)]
    if all(_is_text(branch) for branch in wanted):
        nothing = len(wanted) < len(branches) or WeightsRef in wanted  # no weights are named "null"
        return None if text == "null" and nothing else text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
