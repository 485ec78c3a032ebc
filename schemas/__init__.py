"""What is stored, its identity, and every shared knob: the lowest layer, which imports nothing else of Segue.

Each name is imported only when it is used. `Config`, which is all that a configuration needs, brings in pydantic; the
others bring in pyarrow and fsspec. Listing the commands needs none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from schemas.config import Config
    from schemas.identity import WeightsRef
    from schemas.settings import Settings
    from schemas.storage.store import Store
else:
    _FOUND_IN = {
        "Config": "schemas.config",
        "Settings": "schemas.settings",
        "Store": "schemas.storage.store",
        "WeightsRef": "schemas.identity",
    }

    def __getattr__(name: str) -> type:
        if name not in _FOUND_IN:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_FOUND_IN[name]), name)


__all__ = ["Config", "Settings", "Store", "WeightsRef"]
