"""Work of processes that hold parts of a model's parameters."""

from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from model.decoding.generation import GenerationRequest
from model.decoding.windows import generate_long
from model.music_model import MusicModel
from model.objective import LossModule
from model.optim import muon
from stages.pipeline.contract import Context
from stages.train.distributed import Rank
from stages.train.sharding import WholeModel, shard_model
from tests.worlds.every_condition import everything, music_model

SHAPES = ((24, 24), (17, 8), (24, 48), (24, 24), (17, 8))
"""Shapes of matrices; of the seventeen rows the first of two processes has nine."""


def share_work(context: Context, rank: Rank) -> tuple[list[torch.Tensor], list[torch.Tensor], list[int]]:
    """Make three steps of Muon on matrices that every process has: once each process does all of the work, and once its
    share. Return both results, and how many of the shared matrices each process orthogonalised."""
    matrices, plain = torch.zeros(rank.world_size), muon.orthogonalised
    alone = _moved(None, None)

    def counted(batch: torch.Tensor) -> torch.Tensor:
        matrices[rank.number] += len(batch)
        return plain(batch)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(muon, "orthogonalised", counted)
        together = _moved(None, rank.replicas)
    last = torch.cat([value.flatten() for value in together])
    assert torch.equal(rank.all_reduce(last), rank.world_size * last)
    return alone, together, rank.all_reduce(matrices).int().tolist()


def move_matrices(context: Context, rank: Rank) -> list[list[torch.Tensor]]:
    """Make three steps of Muon on whole matrices, on parts of them, and on parts that are gathered one by one."""
    mesh = init_device_mesh("cpu", (rank.world_size,))
    whole, parts = _moved(None), _moved(mesh)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(muon, "GATHERED_VALUES", 1)
        return [whole, parts, _moved(mesh)]


def _moved(mesh: DeviceMesh | None, replicas: ProcessGroup | None = None) -> list[torch.Tensor]:
    """Matrices and their momenta after three steps, whole; with a mesh each process has some of their rows."""

    def place(values: torch.Tensor) -> torch.Tensor:
        return values.clone() if mesh is None else distribute_tensor(values, mesh, [Shard(0)])

    parameters = [nn.Parameter(place(values)) for values in _random(0)]
    momenta = [torch.zeros_like(parameter) for parameter in parameters]
    for step in range(1, 4):
        for parameter, gradient in zip(parameters, _random(step), strict=True):
            parameter.grad = place(gradient)
        muon.step_matrices(parameters, momenta, 0.02, 0.1, torch.tensor(step != 2), replicas)
    values = [*parameters, *momenta]
    return [(each.full_tensor() if isinstance(each, DTensor) else each).detach() for each in values]


def _random(step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def hear_sharded(context: Context, rank: Rank) -> dict[str, bool]:
    """Whether the model that the first process gathers from a sharded one has its weights and makes its codes, and
    whether a later one has the changed weights."""
    torch.manual_seed(0)
    model, plain = music_model(), music_model()
    plain.load_state_dict(model.state_dict())
    whole = WholeModel(model)
    rank = shard_model(LossModule(model, "float32"), "cpu", rank)
    heard = whole.filled(model, rank, "cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    later = whole.filled(model, rank, "cpu")
    if heard is None or later is None:
        return {}
    has, wanted, moved = (_named(each) for each in (heard, plain, later))
    return {
        "weights": has.keys() == wanted.keys() and all(torch.equal(has[name], wanted[name]) for name in wanted),
        "codes": all(torch.equal(one, own) for one, own in zip(_codes(heard), _codes(plain), strict=True)),
        "later": all(torch.equal(moved[name], wanted[name] + 1) for name in wanted),
    }


class AllWork(NamedTuple):
    """The results of all three."""

    moved: list[list[torch.Tensor]]
    shared: tuple[list[torch.Tensor], list[torch.Tensor], list[int]]
    heard: dict[str, bool]


def all_work(context: Context, rank: Rank) -> AllWork:
    """Do all three in the same processes, which take longer to start than to do them."""
    return AllWork(move_matrices(context, rank), share_work(context, rank), hear_sharded(context, rank))


def _named(model: MusicModel) -> dict[str, torch.Tensor]:
    """All parameters, shared ones under each of their names."""
    return dict(model.named_parameters(remove_duplicate=False))


def _codes(model: MusicModel) -> list[torch.Tensor]:
    requests = [GenerationRequest(everything(item), 9, seed=item) for item in range(2)]
    clips = generate_long(model.eval(), requests, window=6, stride=3, frame_rate=50.0)
    return [codes for _, codes in sorted(clips, key=lambda clip: clip[0])]
