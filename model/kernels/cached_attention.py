"""Attention of a step's queries to a cache in place: every row reads only its own steps.

torch's fused kernels take keys of one length for all rows, in the precision of the queries. In a batch of many lengths
most of what they read is masked, and keys in reduced precision must first be copied to full precision. The kernel here
reads each row's own steps in the precision of the cache and converts them to float32 in registers. The queries of a
group share what is read. Its plain form is a mask and torch's kernel (`model.lm.attention.attend`).

A row is summed over its steps in one order, block after block, whatever the other rows are, so the kernel is
batch-invariant. Lengths are tensors, so that one captured graph serves all lengths.
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
"""Steps that are read at a time for one query head; fewer for a group of heads, so that all fit into registers."""
WIDEST = 256
"""Largest width of a head for which all fit into registers."""
NARROWEST = 16
"""Smallest width of a block; narrower heads are padded to it, and the padding is masked."""


log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SpanMask:
    """The positions of its cache that each row sees: those from `first` to before `stop`, where `mask` is true if there
    is one."""

    first: Int[Tensor, "B"]
    stop: Int[Tensor, "B"]
    mask: Bool[Tensor, "B 1 1 L"] | None = None


def attends_in_cache(device: torch.device, head_width: int) -> bool:
    """Return whether there is a kernel for heads of this width on a device: on CUDA, where Triton can launch one."""
    return kernels.enabled() and device.type == "cuda" and head_width <= WIDEST and _triton_launches()


@cache
def _triton_launches() -> bool:
    """Return whether Triton is installed, as with torch's packages for Linux, and can launch kernels on this machine.

    Triton compiles its launcher from C the first time, so it needs a C compiler and Python's headers. Without a CUDA
    device, where nothing can be launched, it is assumed to be able to.
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
    """Return attention to the cached keys and values (arXiv:1706.03762, 3.2.1), computed in float32 with an online
    softmax (arXiv:1805.02867)."""
    from model.kernels import cached_attention_triton  # it can only be imported where Triton is installed

    rows, heads, _, width = queries.shape
    queries = queries if queries.stride(3) == 1 else queries.contiguous()
    attended = queries.new_empty(rows, heads, 1, width)
    groups = keys.numbers.shape[1]
    assert keys.numbers.stride() == values.numbers.stride(), "keys and values lie alike"
    # Missing scales and masks are never read, so any pointer can be passed for them.
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
    """Return the smallest power of two that is at least `number`."""
    return 1 << (number - 1).bit_length()
