"""The decoding engine: many sequences together, step by step, with the keys and values of their conditions cached.

There is a fixed number of slots. A sequence that is finished makes room for the next, so sequences of any length,
prompt and conditions go together, each where it is. How many slots fit is planned (`memory`); then one of two decoders
is taken: shapes that follow the sequences (`dynamic_shapes`, on a CPU), or shapes that never change, so that a step can
be captured as one graph (`static_shapes`, on CUDA). Sequences come back as they are finished. `generation` turns
requests for clips into sequences, `windows` clips that are longer than the model has seen."""

from model.decoding.engine import DecodingOptions, generate_tokens
from model.decoding.memory import MemoryPlan
from model.decoding.sequences import UNKNOWN, CfgPass, GenerationStoppedError, SamplingParams, SequenceRequest

__all__ = [
    "UNKNOWN",
    "CfgPass",
    "DecodingOptions",
    "GenerationStoppedError",
    "MemoryPlan",
    "SamplingParams",
    "SequenceRequest",
    "generate_tokens",
]
