"""Benchmarks against peers and against the machine's limits: `python -m tests.benchmarks`, or one of its modules.

Those of the model need torch, transformers, safetensors and numpy alone: what else model/ imports is stood in for here,
before any of it is loaded.
"""

from tests.benchmarks.bare import stand_in

stand_in()
