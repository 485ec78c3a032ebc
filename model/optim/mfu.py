"""Model FLOPs utilisation (MFU): the share of a device's matrix products a second that a training makes use of (PaLM,
arXiv:2204.02311, B).

The rate of the device is measured, not taken from its data sheet, so that the share means the same on every device.
Operations that are repeated to save memory count once.
"""

import time

import torch

from model.lm.config import LanguageModelConfig

MEASURED_SIZES = {"cpu": 1024, "cuda": 8192}
"""Rows of the square matrices that measure a kind of device: enough to keep it busy."""
REPETITIONS = 5


def training_flops(config: LanguageModelConfig, frames: int, frozen: bool = False) -> int:
    """Return the floating-point operations of the decoder, forward and backward, for one example of `frames` frames.

    Conditions and their projections are not counted.

    Args:
        frozen: whether the matrices themselves get no gradients, as under low-rank updates.
    """
    key_width = config.width // config.heads * (config.key_value_heads or config.heads)
    attention = 2 * config.width**2 + 2 * config.width * key_width
    cross = 2 * config.width**2 if config.cross else 0
    layer = attention + cross + 2 * config.width * config.expanded_width
    matrices = config.layers * layer + config.codebooks * config.cardinality * config.width
    # A product costs two operations a weight, and as many for each of its two gradients (inputs and weights). In
    # attention, scores and weighted sums of values are two such products; a step sees half of the others on average.
    passes = 2 if frozen else 3
    return frames * (passes * 2 * matrices + 3 * config.layers * 2 * config.width * frames)


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the floating-point operations a second of a product of two large square matrices: the best of
    `REPETITIONS` runs.

    The numbers are random, because a GPU multiplies equal ones faster, with less power, than any model's.
    """
    size = MEASURED_SIZES.get(device.type, MEASURED_SIZES["cpu"])
    generator = torch.Generator(device).manual_seed(0)  # the global one decides what a training run draws
    left = torch.randn((size, size), generator=generator, device=device).to(dtype)
    seconds = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        torch.mm(left, left)[0, 0].item()  # item() waits for the product
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)
