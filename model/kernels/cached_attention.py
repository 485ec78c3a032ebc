"""Attention of a step's queries to a cache where it lies: every row reads the steps that are its own, and no others.

torch's fused kernels take keys of one length for all rows, in the precision of the queries: of a batch of many lengths
most of what they read is masked, and keys that are kept in less would be brought to single ones first, as a copy. The
kernel here reads each row's own steps, as the device's memory has them, and makes single ones of them in registers; the
queries of a group share what is read. Its plain form is a mask and torch's kernel (`model.lm.attention.attend`).

A row's sums go through its steps in one order, block after block, whatever is beside it: it is batch-invariant. Lengths
are tensors, so a captured graph is right for all of them.
"""

import logging
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model import kernels
from model.lm.cached_vectors import CachedVectors

BLOCK = 64
"""Steps that are read at a time, by one query head; by a group fewer, so that all fits the registers."""
WIDEST = 256
"""Width of a head from which on it does not."""
NARROWEST = 16
"""Entries that a block has of a narrower head, the rest masked."""


log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SpanMask:
    """Which positions of its cache each row sees: those from `first` up to `stop`, which it does not see itself, that
    are not masked."""

    first: Int[Tensor, "B"]
    stop: Int[Tensor, "B"]
    mask: Bool[Tensor, "B 1 1 L"] | None = None


def attends_in_cache(device: torch.device, head_width: int) -> bool:
    """Return whether there is a kernel for heads of this width on a device: on CUDA, where Triton can launch one."""
    return kernels.enabled() and device.type == "cuda" and head_width <= WIDEST and _triton_launches()


@cache
def _triton_launches() -> bool:
    """Return whether Triton is installed, as with torch's packages for Linux, and can launch kernels on this machine.

    It compiles its launcher in C the first time, so it needs a C compiler and Python's headers. Where there is no
    device, so that nothing is launched, it is taken to be able to.
    """
    if find_spec("triton") is None:
        return False
    if not torch.cuda.is_available():
        return True
    from triton.runtime import driver

    try:
        _ = driver.active  # compiles what it calls CUDA with, or finds it in Triton's cache
    except Exception as error:  # a missing compiler, header or library; each raises something else
        log.warning(
            "Triton cannot launch kernels on this machine, so attention reads the whole cache, which is slower: "
            "expected a C compiler and Python's headers (Debian: gcc, libc6-dev, python3-dev), got %s: %s",
            type(error).__name__,
            error,
        )
        return False
    return True


def attend_in_cache(
    queries: Float[Tensor, "B H 1 E"], keys: CachedVectors, values: CachedVectors, seen: SpanMask
) -> Float[Tensor, "B H 1 E"]:
    """Mix the cached values by how well their keys fit the queries (arXiv:1706.03762, 3.2.1), in float32, the weights
    of a row summed up as its steps come by (arXiv:1805.02867)."""
    from model.kernels import cached_attention_triton  # which only a device that has it can load

    rows, heads, _, width = queries.shape
    queries = queries if queries.stride(3) == 1 else queries.contiguous()
    attended = queries.new_empty(rows, heads, 1, width)
    groups = keys.numbers.shape[1]
    assert keys.numbers.stride() == values.numbers.stride(), "keys and values lie alike"
    # What is not there is never read: any pointer stands for it.
    key_scales, value_scales = keys.scales, values.scales
    scaled = key_scales is not None and value_scales is not None
    scales_row, scales_head = key_scales.stride()[:2] if key_scales is not None else (0, 0)
    mask = None if seen.mask is None else seen.mask.view(torch.uint8)
    group = _power_of_two(heads // groups)
    kernel: Any = cached_attention_triton.attend_kernel
    kernel[groups, rows](
        queries,
        keys.numbers,
        values.numbers,
        key_scales if scaled else queries,
        value_scales if scaled else queries,
        seen.first,
        seen.stop,
        queries if mask is None else mask,
        attended,
        queries.stride(0),
        queries.stride(1),
        *keys.numbers.stride()[:3],
        scales_row,
        scales_head,
        0 if mask is None else mask.stride(0),
        width**-0.5,
        WIDTH=width,
        PADDED_WIDTH=max(NARROWEST, _power_of_two(width)),
        GROUP=heads // groups,
        PADDED_GROUP=group,
        BLOCK=max(16, BLOCK // group),
        SCALED=scaled,
        MASKED=mask is not None,
    )
    return attended


def _power_of_two(number: int) -> int:
    """Return the least one that is no less."""
    return 1 << (number - 1).bit_length()
