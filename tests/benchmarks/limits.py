"""The machine's limits, measured in the run that needs them: reading memory, and multiplying.

On a processor libraries differ, and torch uses one for matrices in float32 and another for convolutions: on an AMD Zen
5, MKL reaches 104 GFLOP/s a core and oneDNN 245. So the rate is the fastest of all that were tried, products of two
sizes and a convolution. If a result still beats it, no limit is known (`results.Figure`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from model.kernels import operators
from model.kernels.processor import multiplies_bfloat16
from model.optim.mfu import MEASURED_SIZES, matmul_rate
from tests.benchmarks.timing import wall_clock

READ_BYTES = {"cpu": 2**28, "cuda": 2**32}
"""Size of the tensor whose reading is timed, on each kind of device: far more than its caches hold."""
REPETITIONS = 5


@dataclass(frozen=True)
class Limits:
    """Limits of one device with torch's current number of threads."""

    bandwidth: float
    """Rate of reading memory when a large tensor is summed, bytes a second."""
    float32: float
    """Rate of large products, by the fastest library, floating-point operations a second."""
    bfloat16: float
    """The same in bfloat16; if bfloat16 is emulated, the rate of float32, because nothing needs to multiply in bfloat16
    then."""

    def __str__(self) -> str:
        return (
            f"Memory read at {self.bandwidth / 1e9:,.1f} GB/s, large products at {self.float32 / 1e9:,.0f} GFLOP/s in "
            f"float32 and {self.bfloat16 / 1e9:,.0f} in bfloat16"
        )


def limits(device: str) -> Limits:
    """Measure the limits now."""
    where = torch.device(device)
    single = multiplying_rate(where, torch.float32)
    emulated = where.type == "cpu" and not multiplies_bfloat16()
    return Limits(bandwidth(device), single, single if emulated else multiplying_rate(where, torch.bfloat16))


def multiplying_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the highest rate of all large products that were tried on a device, floating-point operations a second."""
    rates = [matmul_rate(device, dtype)]
    if device.type == "cpu" and operators.available("onednn"):
        rates += [_rate_of(*way) for way in _onednn_products(dtype)]
    return max(rates)


def _onednn_products(dtype: torch.dtype) -> Iterator[tuple[Callable[[], object], int]]:
    """Yield ways of multiplying by oneDNN, each with its floating-point operations."""
    for size in (MEASURED_SIZES["cpu"], 2 * MEASURED_SIZES["cpu"]):
        rows = torch.ones((size, size), dtype=dtype)
        packed = operators.pack_matrix(rows)
        yield lambda rows=rows, packed=packed: operators.multiply_packed(rows, packed, None), 2 * size**3  # type: ignore[misc]
    channels, taps, steps = 256, 3, 8192
    sound = torch.ones((1, channels, 1, steps), dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.ones((channels, channels, 1, taps), dtype=dtype)
    yield lambda: F.conv2d(sound, weight), 2 * channels**2 * taps * (steps - taps + 1)


def _rate_of(multiply: Callable[[], object], operations: int) -> float:
    best, clock = float("inf"), wall_clock("cpu")
    with torch.no_grad():
        for _ in range(REPETITIONS):
            begun = clock()
            multiply()
            best = min(best, clock() - begun)
    return operations / best


def bandwidth(device: str) -> float:
    """Rate of reading memory, bytes a second: the best of a few sums of a large tensor."""
    large = torch.ones(READ_BYTES[torch.device(device).type] // 4, device=device)
    best, clock = float("inf"), wall_clock(device)
    for _ in range(REPETITIONS):
        begun = clock()
        large.sum()
        best = min(best, clock() - begun)
    return large.nbytes / best
