"""Model FLOPs utilisation (MFU): the share of a device's matrix products a second that a training makes use of (PaLM,
arXiv:2204.02311, B).

The rate is measured, not a data sheet's, so that the share means the same on every device. What is computed twice to
save memory counts once.
"""

import time

import torch

from model.lm.config import LanguageModelConfig

MEASURED_SIZES = {"cpu": 1024, "cuda": 8192}
"""Rows of the square matrices by which a kind of device is measured: enough to keep it busy."""
REPETITIONS = 5


def training_flops(config: LanguageModelConfig, frames: int, frozen: bool = False) -> int:
    """Count the floating-point operations of the decoder for one example of so many frames, its gradients included;
    conditions and their projections are left out.

    Args:
        frozen: whether the matrices get no gradients of their own, as under low-rank updates.
    """
    key_width = config.width // config.heads * (config.key_value_heads or config.heads)
    attention = 2 * config.width**2 + 2 * config.width * key_width
    cross = 2 * config.width**2 if config.cross else 0
    layer = attention + cross + 2 * config.width * config.expanded_width
    matrices = config.layers * layer + config.codebooks * config.cardinality * config.width
    # A product costs two operations a weight, and as many for each of its two gradients; scores and what is made of
    # the values by them cost as much, a step seeing half of the others.
    passes = 2 if frozen else 3
    return frames * (passes * 2 * matrices + 3 * config.layers * 2 * config.width * frames)


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the floating-point operations a second of the device's product of two large square matrices: the best of
    a few."""
    size = MEASURED_SIZES.get(device.type, MEASURED_SIZES["cpu"])
    left = torch.ones((size, size), dtype=dtype, device=device)
    seconds = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        torch.mm(left, left)[0, 0].item()  # which waits for the product
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)
