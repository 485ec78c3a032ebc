"""The processes of one machine that train together, a GPU each, and what they tell each other (data parallelism,
PyTorch's `DistributedDataParallel`, arXiv:2006.15704).

Every process has the whole model and works on some parts of each step; their gradients are averaged, so that all make
the same update. A training in one process is the case of one, in which nobody is told anything.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from model.objective import LossModule

PATIENCE = timedelta(days=7)
"""How long one waits for the others: while the first one judges and writes, and not because some could be gone, for
that ends the training at once (`stages.train.processes`)."""


@dataclass(frozen=True)
class Rank:
    """One of the processes that train together. The first one logs, judges and writes."""

    number: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        return self.number == 0

    @contextmanager
    def joined(self, port: int, device: str) -> Iterator[None]:
        """Inside, this process hears the others.

        Args:
            port: on this machine, where whoever started them keeps the store by which they find each other.
        """
        if device == "cuda":
            torch.cuda.set_device(self.number)
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        store = dist.TCPStore("127.0.0.1", port, is_master=False)
        dist.init_process_group(backend, store=store, rank=self.number, world_size=self.world_size, timeout=PATIENCE)
        try:
            yield
        finally:
            dist.destroy_process_group()

    def distributed(self, loss_module: LossModule) -> LossModule | DistributedDataParallel:
        """What averages gradients over all processes as they come about."""
        return loss_module if self.world_size == 1 else DistributedDataParallel(loss_module, broadcast_buffers=False)

    def broadcast_flag(self, wish: bool) -> bool:
        """What the first process wishes. No device is waited for."""
        if self.world_size == 1:
            return wish
        told = torch.tensor([wish])
        dist.broadcast(told, 0)
        return bool(told)

    def all_reduce(self, values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The sum over all processes."""
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
