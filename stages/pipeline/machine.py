"""What decoding may use of this machine: how much memory is free, and how many sequences are decoded at once."""

import os
from collections.abc import Callable
from pathlib import Path

from model.decoding import DecodingOptions, MemoryPlan
from model.lm.config import CachePrecision, Precision
from stages.pipeline.contract import Context
from stages.pipeline.kernel_file import KernelFile

MEMORY = Path("/proc/meminfo")
GROUPS = Path("/sys/fs/cgroup")
LIMITS = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)
"""Files with a container's memory limit, its use, and what that use consists of: control groups of version 2 and 1."""


def decoding_options(
    context: Context,
    precision: Precision,
    progress: Callable[[int], None] | None,
    on_plan: Callable[[MemoryPlan], None] | None,
    cache_precision: CachePrecision = "float32",
) -> DecodingOptions:
    """Return the options of decoding in a run: it stops when the run does, and uses the memory and the number of
    sequences at once that the run's settings allow."""
    settings, device = context.settings, context.device
    return DecodingOptions(
        precision,
        context.stop.is_set,
        progress,
        settings.decode_at_once,
        lambda: free_memory(device),
        on_plan,
        settings.cuda_graphs,
        KernelFile() if device == "cpu" else None,
        cache_precision,
        lanes=settings.concurrency == 1,
    )


def free_memory(device: str) -> int:
    """Return how many bytes of a device's memory are free (`cpu` or `cuda`)."""
    if device == "cuda":
        import torch

        # Memory that torch has reserved but holds nothing in is free too.
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return min([_free_in_machine(), *_free_in_groups()])


def _free_in_machine() -> int:
    if MEMORY.exists():
        for line in MEMORY.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    # The system does not say how much is free: take half of the memory.
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _free_in_groups() -> list[int]:
    """Return how much memory each container limit leaves, in bytes. Cached files that the system can drop count as
    free."""
    free = []
    for limit, used, made_of in ([GROUPS / name for name in names] for names in LIMITS):
        if limit.exists() and used.exists() and (most := limit.read_text(encoding="utf-8").strip()) != "max":
            lines = made_of.read_text(encoding="utf-8").splitlines() if made_of.exists() else []
            # Version 1 counts the groups inside this one under another name.
            names = ("inactive_file", "total_inactive_file")
            droppable = [int(line.split()[1]) for line in lines if line.split()[0] in names]
            free.append(int(most) - int(used.read_text(encoding="utf-8")) + max(droppable, default=0))
    return free
