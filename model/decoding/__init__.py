"""The decoding engine: sequences side by side, step by step, with their conditions' keys and values cached.

There are so many slots. A sequence that is finished makes room for the next, so sequences of any length, prompt and
conditions go together, each where it is. How many slots fit is planned (`memory`); then one of two ways of stepping is
taken: shapes that follow the sequences (`exact`, on a CPU), or shapes that never change, so that a step can be captured
as one graph (`fixed` and `graphs`, on CUDA)."""

from model.decoding.engine import Resources, complete
from model.decoding.memory import MemoryPlan
from model.decoding.sequences import UNKNOWN, Drawing, GenerationStoppedError, Pass, Task

__all__ = [
    "UNKNOWN",
    "Drawing",
    "GenerationStoppedError",
    "MemoryPlan",
    "Pass",
    "Resources",
    "Task",
    "complete",
]
