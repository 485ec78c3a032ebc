"""Benchmarks against peers and against the machine's limits: `python -m tests.benchmarks`, or one of its modules.

The benchmarks of the model need only torch, transformers, safetensors and numpy: stand-ins for the other imports of
model/ are installed here, before any of it is loaded.
"""

from tests.benchmarks.bare import stand_in

stand_in()
