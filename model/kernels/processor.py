"""The instructions of this processor, as it reports them. Operations that it lacks are emulated or overflow."""

from functools import cache

import torch


@cache
def multiplies_bfloat16() -> bool:
    """Return whether this CPU has instructions that multiply bfloat16. Without them products are emulated, which takes
    up to 33 times as long as in float32 (one thread of an AMD Zen 3), or oneDNN does not support them at all."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


@cache
def adds_up_int8() -> bool:
    """Return whether this CPU sums products of 8-bit numbers in 32 bits (VNNI). Without VNNI, two products are summed
    in 16 bits, where larger sums saturate."""
    return bool(torch.cpu.get_capabilities().get("avx512_vnni", False))


@cache
def has_avx2_alone() -> bool:
    """Return whether the widest vectors of this CPU are those of AVX2, of 256 bits. For 4 to 64 rows, oneDNN's kernels
    for products then reach only half of a core's speed, and those for convolutions reach more (AMD Zen 3)."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx2", False) and not capabilities.get("avx512", False))
