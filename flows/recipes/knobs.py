"""Every knob by its path, such as `train.optimization.steps`, and which knobs an unknown name may mean."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from schemas.config import field_docstrings
from schemas.names import nearest_name

MOST_PLACES = 3
"""Most knobs of the same name that a message lists."""


@dataclass(frozen=True)
class Knob:
    """A field of a configuration that has no fields of its own."""

    path: tuple[str, ...]
    """The name of a stage, or `settings`, then the names of nested fields."""
    field: FieldInfo
    model: type[BaseModel]
    """The configuration class that has the field."""

    @property
    def meaning(self) -> str:
        """The field's docstring, on one line."""
        return " ".join(field_docstrings(self.model).get(self.path[-1], "").split())


def knobs(models: Mapping[str, type[BaseModel]]) -> Iterator[Knob]:
    """Yield every knob of some configurations.

    Args:
        models: the configurations, by the first name of their knobs' paths.
    """
    for name, model in models.items():
        yield from _knobs(model, (name,))


def _knobs(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[Knob]:
    for name, field in model.model_fields.items():
        inner = list(_models_in(field.annotation))
        for below in inner:
            yield from _knobs(below, (*path, name))
        if not inner:
            yield Knob((*path, name), field, model)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the configuration classes that a field's value may have, without those in mappings, tuples or lists."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif not isinstance(annotation, type) and not _is_collection(annotation):
        for part in get_args(annotation):
            yield from _models_in(part)


def _is_collection(annotation: Any) -> bool:
    origin = getattr(annotation, "__origin__", None)
    return isinstance(origin, type) and issubclass(origin, Mapping | tuple | list)


def unknown_field(
    names: Sequence[str], fields: Sequence[str], models: Mapping[str, type[BaseModel]], setting: str = "--set "
) -> str:
    """Return a message about a path whose last name is not a field: where a knob of that name is, or else which name
    may be meant.

    Args:
        names: the path; its first name is one of `models`.
        fields: the fields that exist in place of the last name.
        models: the configurations whose knobs may be meant.
        setting: text before a knob's path in the message, that shows how to set it.
    """
    unknown = f"unknown field {'.'.join(names)}"
    elsewhere = knobs_named(names[-1:], models, first=names[0])
    if elsewhere:
        return f"{unknown}: {where_it_is(elsewhere, setting)}"
    meant = {knob.path[-1]: ".".join(knob.path) for knob in knobs(models)} | {field: field for field in fields}
    nearest = nearest_name(names[-1], meant)
    near = f" (did you mean {meant[nearest]}?)" if nearest else ""
    return f"{unknown}{near}; allowed: {', '.join(fields) or 'nothing here'}"


def knobs_named(names: Sequence[str], models: Mapping[str, type[BaseModel]], first: str = "") -> list[Knob]:
    """Return the knobs whose paths end with the given names: first those of the stage `first`, then those with the
    shortest path."""
    ending = tuple(names)
    named = [knob for knob in knobs(models) if knob.path[-len(ending) :] == ending]
    return sorted(named, key=lambda knob: (knob.path[0] != first, len(knob.path)))


def where_it_is(named: Sequence[Knob], setting: str = "--set ") -> str:
    """Return a message that says where the knobs of one name are, and how to set the first of them."""
    places = [".".join(knob.path[:-1]) for knob in named[:MOST_PLACES]]
    more = f" and {len(named) - len(places)} more" if len(named) > len(places) else ""
    return f"{named[0].path[-1]} is a knob of {', '.join(places)}{more}: {setting}{'.'.join(named[0].path)}=…"
