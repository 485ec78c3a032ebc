"""Training in several processes: what the processes know of each other, and what they exchange.

Each process works on some micro-batches of a step, and the gradients are averaged, so that all make the same update. A
process updates either the whole model (PyTorch's `DistributedDataParallel`, arXiv:2006.15704) or its part of a sharded
one (`stages.train.sharding`). Training in one process is the same code, with nothing exchanged.
`stages.train.following` starts the processes.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.distributed import Store  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from model.objective import LossModule

STEP_TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the contributions of the others to a step. All begin a step together; a GPU's library
may not notice that another process is gone."""

WAITING_TIMEOUT = timedelta(days=7)
"""How long a process waits for the first one, which plans, evaluates and writes between the steps. It need not be
short: if the first process is gone, its closed connection is an error at once."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Rank:
    """One of the processes that train together. The first process, which is the run, logs, evaluates and writes."""

    number: int = 0
    world_size: int = 1
    local_number: int = 0
    """Number of the process among those on its machine, and of its GPU."""
    local_world_size: int = 1
    waiting: dist.ProcessGroup | None = None
    """The process group (gloo) for everything that no GPU computes, such as waiting for the first process; None without
    other processes."""

    fully_sharded: bool = False
    """Whether each process holds only a part of the model. Then all must compute at the same time, whichever of them
    needs the result."""

    @property
    def is_main(self) -> bool:
        return self.number == 0

    @property
    def evaluates(self) -> bool:
        """Whether the process takes part in evaluations: the first process does, and all do where the model is
        sharded."""
        return self.is_main or self.fully_sharded

    @property
    def replicas(self) -> dist.ProcessGroup | None:
        """The group of all processes, if there are several and each has the whole model; else None."""
        return None if self.world_size == 1 or self.fully_sharded else dist.group.WORLD

    def distributed(self, loss_module: LossModule) -> LossModule | DistributedDataParallel:
        """Wrap a module so that its gradients are averaged over all processes as they are computed. A sharded module
        does that by itself."""
        if self.world_size == 1 or self.fully_sharded:
            return loss_module
        return DistributedDataParallel(loss_module, broadcast_buffers=False)

    def any_flag(self, flag: bool) -> bool:
        """Return whether any process has set its flag. This does not wait for a device."""
        if self.world_size == 1:
            return flag
        value = torch.tensor([flag], dtype=torch.int32)
        dist.all_reduce(value, dist.ReduceOp.MAX, self.waiting)
        return bool(value)

    def wait_for_others(self) -> None:
        """Wait until all processes have made this call."""
        self.any_flag(False)

    def agreed(self, value: Value) -> Value:
        """Return the first process's value of something that all evaluating processes have computed."""
        values = [value]
        if self.fully_sharded:
            dist.broadcast_object_list(values, 0, self.waiting, torch.device("cpu"))
        return values[0]

    def gathered(self, value: dict[str, int]) -> list[dict[str, int]]:
        """Return the values of all processes, in the order of their numbers."""
        values = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(values, value, self.waiting)
        return values

    def all_reduce(self, values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the sum of the values over all processes."""
        if self.world_size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def broadcast_buffers(self, buffers: Iterable[Tensor]) -> None:
        """Overwrite the buffers of all processes with the first process's values. Codebooks that learn by moving
        averages need this: each process has moved them by its own examples, so in effect they learn from the first
        process's examples."""
        if self.world_size > 1:
            for buffer in buffers:
                dist.broadcast(buffer, 0)


@contextmanager
def joined(store: Store, number: int, world_size: int, local_number: int, local_world_size: int) -> Iterator[Rank]:
    """Connect this process with the others as long as the context lasts.

    Args:
        store: key-value store through which the processes find each other.
    """
    backend = "gloo"
    if local_number < torch.cuda.device_count():
        torch.cuda.set_device(local_number)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, store=store, rank=number, world_size=world_size, timeout=STEP_TIMEOUT)
    try:
        waiting = dist.new_group(backend="gloo", timeout=WAITING_TIMEOUT)
        yield Rank(number, world_size, local_number, local_world_size, waiting)
    finally:
        dist.destroy_process_group()
