"""What is stored, its identity, and every shared knob: the lowest layer, which imports nothing else of Segue."""

from schemas.config import Config
from schemas.identity import WeightsRef
from schemas.settings import Settings
from schemas.store import Store

__all__ = ["Config", "Settings", "Store", "WeightsRef"]
