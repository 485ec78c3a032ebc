"""The decoding engine: many sequences together, step by step, with the keys and values of their conditions cached.

There is a fixed number of slots, which `memory` plans. When a sequence is finished, the next takes its slot, so that
sequences of different lengths, prompts and conditions are decoded together, each at its own step. On a CPU the shapes
follow the sequences (`dynamic_shapes`). On CUDA the shapes never change, so that a step can be captured as one graph
(`static_shapes`). Sequences are returned as soon as they are finished. `generation` turns requests for clips into
sequences; `windows` does so for clips that are longer than the model was trained on.
"""

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
