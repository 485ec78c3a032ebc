"""Merging of recipes' differences, as nested mappings, before anything knows what their fields are."""

from collections.abc import Mapping
from typing import Any


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` overridden by `over`: mappings are merged key by key, and any other value of `over` replaces that
    of `base`."""
    from pydantic import BaseModel  # takes longer than printing help, for which no presets are merged yet

    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, BaseModel):
            value = value.model_dump(exclude_unset=True)
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged
