"""What is stored, its identity, and every shared knob: the lowest layer, which imports nothing else of Segue.

`Config` is all that a configuration needs. The other names are found when they are asked for: with them come pyarrow
and fsspec, which the model above does without.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from schemas.config import Config

if TYPE_CHECKING:
    from schemas.identity import WeightsRef
    from schemas.settings import Settings
    from schemas.storage.store import Store
else:
    _FOUND_IN = {"Settings": "schemas.settings", "Store": "schemas.storage.store", "WeightsRef": "schemas.identity"}

    def __getattr__(name: str) -> type:
        if name not in _FOUND_IN:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_FOUND_IN[name]), name)


__all__ = ["Config", "Settings", "Store", "WeightsRef"]
