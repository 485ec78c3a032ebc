"""Muon: the step of a hidden layer's matrix is its momentum with every singular value brought near 1 (K. Jordan et al.,
"Muon: An optimizer for hidden layers in neural networks", 2024; at scale: arXiv:2502.16982).

The tests compare with `torch.optim.Muon`, which updates the matrices one by one. Here matrices of one shape are updated
together, which saves most of the step's time on small models. An update with gradients that are not finite is skipped
on the device, without waiting for it.

Singular values are those of whole matrices. Where each process has some rows of every matrix
(`torch.distributed.tensor`), all processes gather a few whole matrices at a time, all orthogonalise them, and each
keeps the update of its rows. Where each process has all matrices, it orthogonalises a share of them and receives the
other updates from the other processes.
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
"""Decay of the momentum a step; the momentum is Nesterov's."""

COEFFICIENTS, ITERATIONS = (3.4445, -4.775, 2.0315), 5
"""Coefficients and number of the quintic Newton-Schulz iterations; small singular values grow fast with them."""

SMALLEST_NORM = 1e-7
"""Floor of the norm that a matrix is divided by."""

GATHERED_VALUES = 2**26
"""Values of whole matrices that a process gathers at a time, where each process has only some rows: 256 MiB."""


def orthogonalised(matrices: Float[Tensor, "M rows columns"]) -> Float[Tensor, "M rows columns"]:
    """Return matrices with the singular vectors of `matrices` and singular values between about 0.5 and 1.5.

    They are in bfloat16 if the device multiplies it fastest, else in float32.
    """
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
    """Take a step of Muon: update matrices and their momenta in place.

    Args:
        parameters: matrices with gradients. All matrices of one shape are sharded over processes in the same way, or
            none is.
        momenta: the momentum of each matrix, zeros before the first step.
        learning_rate: the learning rate of a square matrix. For a matrix with more rows than columns it is multiplied
            by the square root of their ratio, so that its outputs change as much.
        weight_decay: decoupled weight decay; weights are reduced by this share times the learning rate.
        applied: a flag on the device; false leaves parameters and momenta unchanged.
        replicas: processes that have the same matrices and gradients and call this function together, sharing the
            work; None if this process is alone or has only some rows of every matrix.
    """
    by_shape: dict[torch.Size, list[int]] = {}
    for number, parameter in enumerate(parameters):
        by_shape.setdefault(parameter.shape, []).append(number)
    with torch.no_grad():
        for (rows, columns), numbers in by_shape.items():
            like = parameters[numbers[0]]
            gradients = torch.stack([_local_part(_gradient(parameters[number])) for number in numbers])
            own_momenta = [_local_part(momenta[number]) for number in numbers]
            own_parameters = [_local_part(parameters[number]) for number in numbers]
            before, values = torch.stack(own_momenta), torch.stack(own_parameters)
            after = before.lerp(gradients, 1 - MOMENTUM)
            update = _orthogonalised_rows(gradients.lerp(after, MOMENTUM), like, replicas).to(before.dtype)
            rate = learning_rate * math.sqrt(max(1.0, rows / columns))
            moved = values * (1 - learning_rate * weight_decay) - rate * update
            torch._foreach_copy_(own_momenta, list(torch.where(applied, after, before)))
            torch._foreach_copy_(own_parameters, list(torch.where(applied, moved, values)))


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _local_part(value: Tensor) -> Tensor:
    """Return the part of a tensor that this process has."""
    return value.to_local() if isinstance(value, DTensor) else value


def _orthogonalised_rows(
    local_rows: Float[Tensor, "M r columns"], like: Tensor, replicas: dist.ProcessGroup | None
) -> Float[Tensor, "M r columns"]:
    """Return this process's rows of the orthogonalised matrices.

    Args:
        own: the rows of the matrices that this process has.
        like: one of the parameters; all are sharded over processes in the same way.
        replicas: processes that have the same whole matrices; None if there are none.
    """
    if not isinstance(like, DTensor):
        return orthogonalised(local_rows) if replicas is None else _orthogonalised_together(local_rows, replicas)
    rows, columns = like.shape
    mesh = like.device_mesh
    shared, everywhere = [Shard(1)] * mesh.ndim, [Replicate()] * mesh.ndim
    updates = []
    for part in local_rows.split(max(1, GATHERED_VALUES // (rows * columns))):
        shape, stride = torch.Size((len(part), rows, columns)), (rows * columns, columns, 1)
        stacked = DTensor.from_local(part, mesh, shared, run_check=False, shape=shape, stride=stride)
        gathered_update = DTensor.from_local(orthogonalised(stacked.full_tensor()), mesh, everywhere, run_check=False)
        updates.append(gathered_update.redistribute(mesh, shared).to_local())
    return torch.cat(updates)


def _orthogonalised_together(
    matrices: Float[Tensor, "M rows columns"], replicas: dist.ProcessGroup
) -> Float[Tensor, "M rows columns"]:
    """Return the orthogonalised matrices, which all processes of `replicas` have.

    Each process computes an equal share of them; the last processes may have fewer.
    """
    matrices_per_process = math.ceil(len(matrices) / replicas.size())
    share = matrices[matrices_per_process * replicas.rank() :][:matrices_per_process]
    update = torch.zeros(
        (matrices_per_process, *matrices.shape[1:]), dtype=fast_dtype(matrices.device), device=matrices.device
    )
    if len(share):
        update[: len(share)] = orthogonalised(share)
    gathered = update.new_empty((matrices_per_process * replicas.size(), *matrices.shape[1:]))
    dist.all_gather_into_tensor(gathered, update, replicas)
    return gathered[: len(matrices)]
