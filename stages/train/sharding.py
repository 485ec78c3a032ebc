"""Fully sharded training (PyTorch's `fully_shard`, arXiv:2304.11277, after ZeRO's third stage, arXiv:1910.02054): each
process has a part of every weight, gradient, moment and average, and borrows the others' parts of a layer while it
computes with it. So a model trains that fits no single GPU, for the price of what is sent.
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
"""Of a parameter that learns: weight, gradient, what gradients are sent from, two moments, the average, and the weight
once more while the average is evaluated; of one that does not, the weight. All of them are float32."""

SHARE_OF_STATE = 0.6
"""Of the memory that is free: what these may take at most. The rest is for activations."""


def is_to_be_sharded(config: Config, context: Context, rank: Rank, model: MusicModel) -> bool:
    """Return whether the processes of a training are to share the model's state out, by the settings or because one of
    them has no room for all of it. All of them come to the same answer."""
    parallel = context.settings.parallel
    if rank.world_size == 1 or parallel == "data":
        return False
    free = free_memory(context.device) / (1 if context.device == "cuda" else rank.local_world_size)
    return parallel == "fully_sharded" or rank.any_flag(state_bytes(config, model) > SHARE_OF_STATE * free)


def state_bytes(config: Config, model: MusicModel) -> int:
    """Return the bytes that a training of a model holds whatever its batch is, in one process that has all of it."""
    sizes = [(value.numel(), value.requires_grad) for value in model.parameters()]
    teacher = 0 if config.distill_guidance is None else sum(size for size, _ in sizes) * BYTES_FROZEN
    return teacher + sum(size * (BYTES_LEARNED if learns else BYTES_FROZEN) for size, learns in sizes)


def shard_model(loss_module: LossModule, device: str, rank: Rank) -> Rank:
    """Give each process its part of a model and of its teacher, on its device; return this one as what it is now.

    Args:
        loss_module: the same in all processes; it may be on the CPU, and then goes to the device layer by layer.
    """
    mesh = init_device_mesh(device, (rank.world_size,))
    models = [loss_module.model, *([loss_module.teacher.model] if loss_module.teacher else [])]
    for model in models:
        for layer in model.language_model.transformer.layers:
            fully_shard(layer, mesh=mesh)
        # What stands outside the layers is given back too, as they do: an evaluation of averaged weights would else
        # leave those to the next step.
        fully_shard(model, mesh=mesh, reshard_after_forward=True)
        register_fsdp_forward_method(model, "loss")
    return replace(rank, fully_sharded=True)


class WholeModel:
    """A model that the first process has whole, beside its part of it, while it is heard.

    Args:
        model: the model before it is shared out.
    """

    def __init__(self, model: MusicModel) -> None:
        # Without a copy of its parameters, which are the sharded ones' values whenever it is heard.
        places = {value: torch.empty_like(value, device="meta") for value in model.parameters()}
        memo = {id(value): nn.Parameter(place, value.requires_grad) for value, place in places.items()}
        self._empty: MusicModel = copy.deepcopy(model, memo)

    @torch.no_grad()
    def filled(self, sharded: MusicModel, rank: Rank, device: str) -> MusicModel | None:
        """Return a model with the values that the processes have now, for the first of them; None for the others, which
        send theirs."""
        whole: dict[str, Tensor] = {}
        gathered: dict[Tensor, Tensor] = {}  # one that stands in several places is sent once
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
    """Give the first process's model all of its parameters, on the CPU, to be written; the others send theirs. It
    learns and predicts no more."""
    whole: dict[DTensor, nn.Parameter] = {}  # one that stands in several places is one afterwards too
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
