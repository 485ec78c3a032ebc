"""Stand-ins for jaxtyping and pydantic, which many GPU machines do not have: with them the benchmarks of the model run
with only torch, transformers, safetensors and numpy.

Annotations then have no effect, and configurations keep their fields, defaults and properties but check no values: a
benchmark writes its own, which are right. The product itself needs both packages.
"""

import dataclasses
import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Self


class Shape:
    """Makes `Float[Tensor, "B K"]` the tensor's type."""

    def __class_getitem__(cls, annotation: tuple[Any, str]) -> Any:
        return annotation[0]


class BaseModel:
    """A frozen class with exactly the annotated fields."""

    def __init_subclass__(cls) -> None:
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)

    def model_copy(self, update: dict[str, Any]) -> Self:
        return dataclasses.replace(self, **update)  # type: ignore[type-var]


def field(default: Any = dataclasses.MISSING, **_: object) -> Any:
    """A field's default; its bounds are ignored."""
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy)
    return dataclasses.field(default=default)


def validator(*_: str, **__: str) -> Callable[[Any], Any]:
    """Leaves the decorated function as a method that nothing calls."""
    return lambda method: method


STANDS_IN: dict[str, dict[str, Any]] = {
    "jaxtyping": dict.fromkeys(("Bool", "Complex", "Float", "Float32", "Int", "Shaped"), Shape),
    "pydantic": {
        "BaseModel": BaseModel,
        "ConfigDict": dict,
        "Field": field,
        "GetJsonSchemaHandler": object,
        "field_validator": validator,
        "model_validator": validator,
    },
}
"""What model/ imports from each of the two."""


def stand_in() -> None:
    """Make the missing ones of the two importable."""
    for name, members in STANDS_IN.items():
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            module = ModuleType(name, "Stands in for the package of this name, which is not installed.")
            module.__spec__ = ModuleSpec(name, None)  # else find_spec, with which others look for it, would raise
            vars(module).update(members)
            sys.modules[name] = module
