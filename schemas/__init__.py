"""What is stored, its identity, and every shared knob: the lowest layer, which imports nothing else of Segue."""

from schemas.config import Config

__all__ = ["Config"]
