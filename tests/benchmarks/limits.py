"""What the machine could do at best, measured in the run that needs it: reading memory, and multiplying matrices."""

from dataclasses import dataclass

import torch

from model.optim.mfu import matmul_rate
from tests.benchmarks.timing import wall_clock

READ_BYTES = {"cpu": 2**28, "cuda": 2**32}
"""Size of the tensor whose reading is timed, on each kind of device: far more than its caches hold."""
REPETITIONS = 5


@dataclass(frozen=True)
class Limits:
    """Of one device with as many threads as torch has just then."""

    bandwidth: float
    """Of memory when a large tensor is summed, bytes a second."""
    float32: float
    """Products of large square matrices, floating-point operations a second."""
    bfloat16: float
    """The same in this precision."""

    def __str__(self) -> str:
        return (
            f"Memory read at {self.bandwidth / 1e9:,.1f} GB/s, matrices multiplied at {self.float32 / 1e9:,.0f} "
            f"GFLOP/s in float32 and {self.bfloat16 / 1e9:,.0f} in bfloat16"
        )


def limits(device: str) -> Limits:
    """Measure them now."""
    where = torch.device(device)
    return Limits(bandwidth(device), matmul_rate(where, torch.float32), matmul_rate(where, torch.bfloat16))


def bandwidth(device: str) -> float:
    """What reading memory reaches, bytes a second: the best of a few sums of a large tensor."""
    large = torch.ones(READ_BYTES[torch.device(device).type] // 4, device=device)
    best, clock = float("inf"), wall_clock(device)
    for _ in range(REPETITIONS):
        begun = clock()
        large.sum()
        best = min(best, clock() - begun)
    return large.nbytes / best
