"""The base of every stage's configuration: typed, frozen, strict, and described in the docstring under each field."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Knobs of one stage or model. Every field counts in the stage's fingerprint, so what does not change a result
    (device, workers, batch size, paths) belongs in `Settings`, not here."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
        # A default written as text becomes the field's own type (a `WeightsRef`), which a fingerprint looks for.
        validate_default=True,
    )

    NOT_IDENTITY: ClassVar[tuple[str, ...]] = ()
    """Fields that change when or how often something is done, never its result, and so enter no fingerprint."""
