"""How many sequences fit side by side into the free memory, computed before any begins.

Nearly all memory is for keys and values: in MusicGen-small 196 kB a step and row in float32, 0.6 GB for half a minute
with guidance. The plan runs the engine's own allocation on the device `meta`, which holds no data, so that the planned
size is the size that is then allocated.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from model.decoding.sampling import largest_top_k
from model.decoding.sequences import SequenceRequest
from model.decoding.static_shapes import round_up_to_bucket
from model.kernels.cached_attention import attends_in_cache
from model.kernels.packed_linear import packed_bytes
from model.kernels.processor import multiplies_bfloat16
from model.lm.config import CachePrecision, LanguageModelConfig, Precision
from model.lm.language_model import LanguageModel

USABLE_SHARE = 0.9
"""Largest share of the free memory that a plan uses: allocators round up, and other programs need memory too."""
MAX_SLOTS = {"cpu": 32, "cuda": 128}
"""Maximum number of sequences that are decoded together, by device. On a CPU, kernels are tested to be batch-invariant
only up to this many (`model.kernels.packed_linear`)."""
FEW_SLOTS, MANY_BYTES = 8, 2 * 10**9
"""On a CPU, more than `FEW_SLOTS` slots are used only if keys and values take at most `MANY_BYTES` bytes. Many rows
make matrix products faster (with 32 slots they take a third less time a row than with 8), but not attention, which
takes most of the time of a long sequence. Other programs need memory too."""


@dataclass(frozen=True)
class MemoryPlan:
    """How many sequences are decoded at once, and the memory for it."""

    slots: int
    needed: int
    """Memory that decoding needs, bytes."""
    free: int | None
    """Free memory, bytes; None if it is not known."""

    def __str__(self) -> str:
        free = "" if self.free is None else f" of {_gigabytes(self.free)} free"
        return f"decoding {self.slots} sequences at once: {_gigabytes(self.needed)}{free}"


def plan_memory(
    model: LanguageModel,
    requests: Sequence[SequenceRequest],
    precision: Precision,
    slots: int,
    free: int | None,
    cache_precision: CachePrecision = "float32",
) -> MemoryPlan:
    """Plan as many slots as fit, at most `slots`. On a CPU, more than `FEW_SLOTS` are planned only for short sequences.

    Args:
        free: free memory, bytes; None sets no limit.

    Raises:
        ValueError: not even one sequence fits.
    """
    required = MemoryRequirements(model, requests, precision, cache_precision)
    if model.device.type == "cpu":
        few_slots = min(slots, FEW_SLOTS)
        slots = next((count for count in range(slots, few_slots, -1) if required.kept(count) <= MANY_BYTES), few_slots)
    if free is None:
        return MemoryPlan(slots, required.bytes_for(slots), None)
    fitting = next((count for count in range(slots, 0, -1) if required.bytes_for(count) <= USABLE_SHARE * free), 0)
    if not fitting:
        needed = int(required.bytes_for(1) / USABLE_SHARE)
        raise ValueError(
            f"expected {_gigabytes(needed)} of free memory to decode one sequence of {required.room} steps, got "
            f"{_gigabytes(free)}: free memory, request shorter clips, or use a smaller model or lower precision"
        )
    return MemoryPlan(fitting, required.bytes_for(fitting), free)


class MemoryRequirements:
    """The memory that decoding `requests` needs, as a function of the number of slots."""

    def __init__(
        self,
        model: LanguageModel,
        requests: Sequence[SequenceRequest],
        precision: Precision,
        cache_precision: CachePrecision = "float32",
    ) -> None:
        self.model, self.cache_precision = model, cache_precision
        self.rows = max(request.rows for request in requests)
        """Number of rows of a slot."""
        longest = max(request.prefix_length + request.steps for request in requests)
        self.room = longest if model.device.type == "cpu" else round_up_to_bucket(longest)
        """Steps that a row has room for, including the prefix."""
        self.steps = max(request.steps for request in requests)
        self.prefilled = max(request.prefilled for request in requests)
        """Most steps that are prefilled at once."""
        self.cross_length = max(request.cross_length for request in requests)
        self.sorted = largest_top_k(requests) is None
        """Whether sampling sorts the entries of a codebook."""
        self.weights = packed_bytes(model, precision)
        """Bytes of the packed weights."""
        self.activations = _activations(model.config)
        """Numbers that a layer holds at once for each row and step."""
        if precision == "bfloat16" and model.device.type == "cpu" and not multiplies_bfloat16():
            # The rounded activations are copies: one in bfloat16, half as many bytes, and one back in float32.
            self.activations += model.config.expanded_width * 3 // 2

    def bytes_for(self, slots: int) -> int:
        """Return all bytes that decoding with `slots` slots needs."""
        return self.weights + self.kept(slots) + max(self._step(slots), self._prefill())

    def kept(self, slots: int) -> int:
        """Return the bytes that last from step to step: keys, values, codes, random numbers and added conditions."""
        cache = self.model.transformer.allocate(
            slots * self.rows, self.room, self.cross_length, torch.device("meta"), self.cache_precision
        )
        # When the cache grows, one layer is in memory twice while it is copied.
        growing = cache.layers[0].nbytes if self.model.device.type == "cpu" else 0
        config = self.model.config
        if self.cache_precision != "float32" and not attends_in_cache(self.model.device, config.width // config.heads):
            # A layer in reduced precision is also in memory in full precision while it is read.
            growing += 2 * cache.layers[0].keys.numbers.numel() * self.model.dtype.itemsize
        added = self.rows * config.width * self.model.dtype.itemsize if config.sum or config.interpolate else 0
        sequences = slots * self.steps * (config.codebooks * 2 * torch.long.itemsize + added)
        return cache.nbytes + growing + sequences

    def _step(self, slots: int) -> int:
        """Return the bytes of a step: the logits of each row, and cumulative probabilities, sorted if necessary."""
        config, single, double = self.model.config, torch.float32.itemsize, torch.float64.itemsize
        entries = config.codebooks * config.cardinality
        bytes_per_entry = 4 * single + double + (4 * single + 2 * torch.long.itemsize if self.sorted else 0)
        return slots * (self.rows * (2 * entries + self.activations) * single + entries * bytes_per_entry)

    def _prefill(self) -> int:
        """Return the bytes of reading a prompt at once: activations and attention weights."""
        config, single = self.model.config, torch.float32.itemsize
        scores = 3 * config.heads * max(self.prefilled, self.cross_length)
        return self.rows * self.prefilled * (self.activations + scores) * single


def _activations(config: LanguageModelConfig) -> int:
    """Return how many numbers a layer holds at once for a row and step: those of the feed-forward part or those of
    queries, keys and values, whichever are more."""
    return 2 * config.width + max(2 * config.expanded_width, 6 * config.width)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 5e7 else f"{size / 1e6:.1f} MB"
