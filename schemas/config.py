"""The base of every stage's configuration: typed, frozen, strict, and described in the docstring under each field."""

import ast
import inspect
import textwrap
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler


class Config(BaseModel):
    """Knobs of one stage or model. Every field counts in the stage's fingerprint, so what does not change a result
    (device, workers, batch size, paths) belongs in `Settings`, not here."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
        # Turns a default written as text into the field's own type: fingerprints look for `WeightsRef`, not `str`.
        validate_default=True,
    )

    NOT_IDENTITY: ClassVar[tuple[str, ...]] = ()
    """Fields that change when or how often something is done, but never its result. No fingerprint includes them."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, text in field_docstrings(cls).items():
            if name in properties:
                properties[name].setdefault("description", text)
        return schema


@cache
def field_docstrings(model: type[BaseModel]) -> Mapping[str, str]:
    """Return the docstring under each field of a configuration class and of its base classes, by field name.

    Pydantic can read them too (`use_attribute_docstrings`), but it does so for every class at import, which costs every
    command a fifth of a second. Here they are read on demand.
    """
    texts: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        if issubclass(owner, BaseModel) and owner is not BaseModel:
            (written,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
            assert isinstance(written, ast.ClassDef)
            for field, below in pairwise(written.body):
                match field, below:
                    case (
                        ast.AnnAssign(target=ast.Name(id=name)),
                        ast.Expr(value=ast.Constant(value=str(text))),
                    ) if name in model.model_fields:
                        texts[name] = inspect.cleandoc(text)
    return texts
