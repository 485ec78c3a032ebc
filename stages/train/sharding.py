"""Fully sharded training: each process holds a part of every weight, gradient, moment and average.

PyTorch's `fully_shard` (arXiv:2304.11277), after ZeRO's third stage (arXiv:1910.02054). While a process computes a
layer, it gathers the other processes' parts of that layer. So a model can be trained that fits on no single GPU; the
price is the communication.
"""

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from model.music_model import MusicModel
from model.objective import LossModule
from stages.pipeline.contract import Context
from stages.pipeline.machine import free_memory
from stages.train.config import Config
from stages.train.distributed import Rank

BYTES_LEARNED, BYTES_FROZEN = 28, 4
"""Bytes of state for each parameter, all float32. A parameter that learns: weight, gradient, the buffer that gradients
are sent from, two moments, the average, and the weight once more while the average is evaluated. A frozen one: the
weight."""

SHARE_OF_STATE = 0.6
"""Largest share of the free memory that this state may take. The rest is for activations."""


def is_to_be_sharded(config: Config, context: Context, rank: Rank, model: MusicModel) -> bool:
    """Return whether the processes of a training shard the model's state: because the settings say so, or because one
    of them has no room for all of it. All processes get the same answer."""
    parallel = context.settings.parallel
    if rank.world_size == 1 or parallel == "data":
        return False
    free = free_memory(context.device) / (1 if context.device == "cuda" else rank.local_world_size)
    return parallel == "fully_sharded" or rank.any_flag(state_bytes(config, model) > SHARE_OF_STATE * free)


def state_bytes(config: Config, model: MusicModel) -> int:
    """Return the bytes that a training of a model holds whatever its batch is, in a process that holds the whole
    model."""
    sizes = [(value.numel(), value.requires_grad) for value in model.parameters()]
    teacher = 0 if config.distill_guidance is None else sum(size for size, _ in sizes) * BYTES_FROZEN
    return teacher + sum(size * (BYTES_LEARNED if learns else BYTES_FROZEN) for size, learns in sizes)


def shard_model(loss_module: LossModule, device: str, rank: Rank) -> Rank:
    """Shard a model and its teacher over the processes, each part on its process's device; return this process's rank
    with `fully_sharded` set.

    Args:
        loss_module: the same in all processes; it may be on the CPU, and then goes to the device layer by layer.
    """
    mesh = init_device_mesh(device, (rank.world_size,))
    models = [loss_module.model, *([loss_module.teacher.model] if loss_module.teacher else [])]
    for model in models:
        for layer in model.language_model.transformer.layers:
            fully_shard(layer, mesh=mesh)
        # What is outside the layers is freed after the forward pass too, as the layers are: otherwise an evaluation of
        # averaged weights would leave them gathered, and the next step would compute with them.
        fully_shard(model, mesh=mesh, reshard_after_forward=True)
        register_fsdp_forward_method(model, "loss")
    return replace(rank, fully_sharded=True)


class WholeModel:
    """The whole model in the first process, beside its part of the sharded one, for making samples.

    Args:
        model: the model before it is sharded.
    """

    def __init__(self, model: MusicModel) -> None:
        # The copy has no values of parameters: they are gathered from the sharded model whenever samples are made.
        placeholders = {value: torch.empty_like(value, device="meta") for value in model.parameters()}
        memo = {
            id(value): nn.Parameter(placeholder, value.requires_grad) for value, placeholder in placeholders.items()
        }
        self._empty: MusicModel = copy.deepcopy(model, memo)

    @torch.no_grad()
    def filled(self, sharded: MusicModel, rank: Rank, device: str) -> MusicModel | None:
        """Return a model with the current values of all processes in the first process. The others send theirs and get
        None."""
        whole: dict[str, Tensor] = {}
        gathered: dict[Tensor, Tensor] = {}  # a parameter with several names is sent once
        for name, value in sharded.named_parameters(remove_duplicate=False):
            if value not in gathered:
                full = value.full_tensor() if isinstance(value, DTensor) else value
                gathered[value] = full.to(device) if rank.is_main else full.new_empty(0)
            whole[name] = gathered[value]
        if not rank.is_main:
            return None
        model = copy.deepcopy(self._empty)
        model.load_state_dict(whole | dict(sharded.named_buffers()), strict=False, assign=True)
        return model.to(device)


@torch.no_grad()
def gather_model(model: MusicModel, rank: Rank) -> None:
    """Give the first process's model all of its parameters, on the CPU, to be written; the other processes send theirs.
    The model can be neither trained nor evaluated after this."""
    whole: dict[DTensor, nn.Parameter] = {}  # a parameter with several names stays one parameter
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if not isinstance(parameter, DTensor):
                continue
            if parameter not in whole:
                gathered = parameter.full_tensor()
                kept = gathered.cpu() if rank.is_main else gathered.new_empty(0)
                whole[parameter] = nn.Parameter(kept, parameter.requires_grad)
            if rank.is_main:
                setattr(module, name, whole[parameter])
