"""Muon: the step of a hidden layer's matrix is its momentum with every singular value brought near 1 (K. Jordan et al.,
"Muon: An optimizer for hidden layers in neural networks", 2024; at scale: arXiv:2502.16982).

`torch.optim.Muon` is the oracle of the tests. It goes through the matrices one by one; here those of one shape go
together, which on small models is most of the step's time, and an update whose gradients are not finite is left out on
the device, without waiting for it.

Singular values are those of whole matrices. Where each process has some rows of them (`torch.distributed.tensor`), all
processes gather what is to be orthogonalised, some matrices at a time, do it alike, and keep the update of their rows.
Where each has all of every matrix, it orthogonalises its share of them, and gets the others' updates from the others.
"""

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

from model.optim.precision import fast_dtype

MOMENTUM = 0.95
"""Decay of the momentum a step, which is looked ahead by (Nesterov's)."""

COEFFICIENTS, ITERATIONS = (3.4445, -4.775, 2.0315), 5
"""Of the quintic Newton-Schulz iteration, chosen so that small singular values grow fast."""

SMALLEST_NORM = 1e-7
"""Floor of the norm that a matrix is divided by."""

GATHERED_VALUES = 2**26
"""Values of matrices that a process has whole at a time, where it has only a part of them: 256 MiB."""


def orthogonalised(matrices: Float[Tensor, "M rows columns"]) -> Float[Tensor, "M rows columns"]:
    """Return matrices with the singular vectors of these, and singular values between about 0.5 and 1.5, in bfloat16
    where the device multiplies that fastest, else in float32."""
    is_tall = matrices.shape[1] > matrices.shape[2]
    result = matrices.to(fast_dtype(matrices.device))
    if is_tall:
        result = result.mT
    result = result / result.norm(dim=(1, 2), keepdim=True).clamp(min=SMALLEST_NORM)
    first, third, fifth = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = result @ result.mT
        result = torch.baddbmm(result, torch.baddbmm(gram, gram, gram, beta=third, alpha=fifth), result, beta=first)
    return result.mT if is_tall else result


def step_matrices(
    parameters: Sequence[Float[Tensor, "_ _"]],
    momenta: Sequence[Float[Tensor, "_ _"]],
    learning_rate: float,
    weight_decay: float,
    applied: Bool[Tensor, ""],
    replicas: dist.ProcessGroup | None = None,
) -> None:
    """Move matrices along their gradients, and their momenta with them, in place.

    Args:
        parameters: with gradients; all of one shape are shared out among processes alike, or none is.
        momenta: one for each, zeros before the first step.
        learning_rate: of a square matrix; of one with more rows than columns, times the root of their ratio, so that
            outputs move as far.
        weight_decay: the share that is taken off, times the learning rate.
        applied: on the device; False leaves all as it was.
        replicas: processes that have the same matrices and gradients and call this together, so that each has a share
            of the work; None where this process is alone, or has a part of every matrix.
    """
    by_shape: dict[torch.Size, list[int]] = {}
    for number, parameter in enumerate(parameters):
        by_shape.setdefault(parameter.shape, []).append(number)
    with torch.no_grad():
        for (rows, columns), numbers in by_shape.items():
            like = parameters[numbers[0]]
            gradients = torch.stack([_own(_gradient(parameters[number])) for number in numbers])
            own_momenta = [_own(momenta[number]) for number in numbers]
            own_parameters = [_own(parameters[number]) for number in numbers]
            before, values = torch.stack(own_momenta), torch.stack(own_parameters)
            after = before.lerp(gradients, 1 - MOMENTUM)
            update = _orthogonalised_rows(gradients.lerp(after, MOMENTUM), like, replicas).to(before.dtype)
            rate = learning_rate * math.sqrt(max(1.0, rows / columns))
            moved = values * (1 - learning_rate * weight_decay) - rate * update
            torch._foreach_copy_(own_momenta, list(torch.where(applied, after, before)))
            torch._foreach_copy_(own_parameters, list(torch.where(applied, moved, values)))


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _own(value: Tensor) -> Tensor:
    """Return what this process has of a tensor."""
    return value.to_local() if isinstance(value, DTensor) else value


def _orthogonalised_rows(
    own: Float[Tensor, "M r columns"], like: Tensor, replicas: dist.ProcessGroup | None
) -> Float[Tensor, "M r columns"]:
    """Return what `orthogonalised` makes of matrices, in the rows that this process has of them.

    Args:
        own: those rows.
        like: one of the parameters, which tells how all are shared out.
        replicas: those that have the same rows, all of them; None for no others.
    """
    if not isinstance(like, DTensor):
        return orthogonalised(own) if replicas is None else _orthogonalised_together(own, replicas)
    rows, columns = like.shape
    mesh = like.device_mesh
    shared, everywhere = [Shard(1)] * mesh.ndim, [Replicate()] * mesh.ndim
    updates = []
    for part in own.split(max(1, GATHERED_VALUES // (rows * columns))):
        shape, stride = torch.Size((len(part), rows, columns)), (rows * columns, columns, 1)
        stacked = DTensor.from_local(part, mesh, shared, run_check=False, shape=shape, stride=stride)
        whole = DTensor.from_local(orthogonalised(stacked.full_tensor()), mesh, everywhere, run_check=False)
        updates.append(whole.redistribute(mesh, shared).to_local())
    return torch.cat(updates)


def _orthogonalised_together(
    matrices: Float[Tensor, "M rows columns"], replicas: dist.ProcessGroup
) -> Float[Tensor, "M rows columns"]:
    """Return what `orthogonalised` makes of matrices that all of these processes have, and of which each works on as
    many as the others, the last ones on fewer."""
    most = math.ceil(len(matrices) / replicas.size())
    share = matrices[most * replicas.rank() :][:most]
    update = torch.zeros((most, *matrices.shape[1:]), dtype=fast_dtype(matrices.device), device=matrices.device)
    if len(share):
        update[: len(share)] = orthogonalised(share)
    gathered = update.new_empty((most * replicas.size(), *matrices.shape[1:]))
    dist.all_gather_into_tensor(gathered, update, replicas)
    return gathered[: len(matrices)]
