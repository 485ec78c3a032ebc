"""What this processor has instructions for, by what it says itself: what it lacks is emulated, or overflows."""

from functools import cache

import torch


@cache
def multiplies_bfloat16() -> bool:
    """Return whether this CPU has instructions that multiply bfloat16. Without them its products are emulated, which
    takes up to 33 times as long as those of float32 (one thread of an AMD Zen 3), and oneDNN may have none at all."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


@cache
def adds_up_int8() -> bool:
    """Return whether this CPU adds products of two numbers of 8 bits up in 32 bits (VNNI). Without that two of them
    are added up in 16 bits, where larger sums are cut off."""
    return bool(torch.cpu.get_capabilities().get("avx512_vnni", False))


@cache
def has_avx2_alone() -> bool:
    """Return whether the widest vectors that this CPU multiplies are those of AVX2, of 256 bits. With them oneDNN's
    kernels for products reach half of what a core does for 4 to 64 rows, and those for convolutions more (AMD Zen 3).
    """
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx2", False) and not capabilities.get("avx512", False))
