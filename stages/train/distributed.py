"""Training in several processes: what those that train together know of each other, and what they exchange.

Each works on some micro-batches of a step, and their gradients are averaged, so that all make the same update: each of
the whole model (PyTorch's `DistributedDataParallel`, arXiv:2006.15704), or of its part of one that is sharded
(`stages.train.sharding`). A training in one process is the case of one, in which nothing is exchanged. How the
processes come about is `stages.train.following`'s.
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
"""How long a process waits for what others add to a step. All begin it together; a GPU's library may not notice that
another process is gone."""

WAITING_TIMEOUT = timedelta(days=7)
"""How long a process waits for the first one, which plans, evaluates and writes between the steps. Not because it could
be gone: that closes its connection, and is an error at once."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Rank:
    """One of the processes that train together. The first one, which is the run, logs, evaluates and writes."""

    number: int = 0
    world_size: int = 1
    local_number: int = 0
    """Its number among those of its machine, and that of its GPU."""
    local_world_size: int = 1
    waiting: dist.ProcessGroup | None = None
    """What it waits for the first one by, and for nothing that a GPU computes."""

    fully_sharded: bool = False
    """Whether it has a part of the model only, so that all must compute at the same time whatever one does."""

    @property
    def is_main(self) -> bool:
        return self.number == 0

    @property
    def evaluates(self) -> bool:
        """Whether it takes part in evaluations: the first one's, for which it needs the others if they have a part of
        the model."""
        return self.is_main or self.fully_sharded

    @property
    def replicas(self) -> dist.ProcessGroup | None:
        """All processes, where there are others and each has the whole model."""
        return None if self.world_size == 1 or self.fully_sharded else dist.group.WORLD

    def distributed(self, loss_module: LossModule) -> LossModule | DistributedDataParallel:
        """Wrap a module so that gradients are averaged over all processes as they come about; one that is sharded does
        so itself."""
        if self.world_size == 1 or self.fully_sharded:
            return loss_module
        return DistributedDataParallel(loss_module, broadcast_buffers=False)

    def any_flag(self, flag: bool) -> bool:
        """Return whether the flag of any process is set. No device is waited for."""
        if self.world_size == 1:
            return flag
        value = torch.tensor([flag], dtype=torch.int32)
        dist.all_reduce(value, dist.ReduceOp.MAX, self.waiting)
        return bool(value)

    def wait_for_others(self) -> None:
        """Wait until all processes are here."""
        self.any_flag(False)

    def agreed(self, value: Value) -> Value:
        """Return the first one's value of what all that evaluate have come to, each by itself."""
        values = [value]
        if self.fully_sharded:
            dist.broadcast_object_list(values, 0, self.waiting, torch.device("cpu"))
        return values[0]

    def gathered(self, value: dict[str, int]) -> list[dict[str, int]]:
        """Return the values of all processes."""
        values = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(values, value, self.waiting)
        return values

    def all_reduce(self, values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the sum over all processes."""
        if self.world_size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def broadcast_buffers(self, buffers: Iterable[Tensor]) -> None:
        """Give all processes the first one's values, in place. Codebooks that learn by moving averages need it: each
        process has moved them by its own examples, and so they learn from the first one's."""
        if self.world_size > 1:
            for buffer in buffers:
                dist.broadcast(buffer, 0)


@contextmanager
def joined(store: Store, number: int, world_size: int, local_number: int, local_world_size: int) -> Iterator[Rank]:
    """Connect this process with the others as long as the context lasts.

    Args:
        store: by which they find each other.
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
