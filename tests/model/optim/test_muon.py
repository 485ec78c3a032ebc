"""Muon: against PyTorch's own, and the properties of its steps."""

import pytest
import torch
from torch import nn

from model.optim.muon import MOMENTUM, orthogonalised, step_matrices

SHAPES = ((24, 24), (48, 24), (24, 48), (24, 24))


def gradients(step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def test_steps_equal_those_of_pytorchs_muon() -> None:
    start = gradients(99)
    own, theirs = ([nn.Parameter(value.clone()) for value in start] for _ in range(2))
    optimizer = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, momentum=MOMENTUM, adjust_lr_fn="original")
    momenta = [torch.zeros(shape) for shape in SHAPES]
    for step in range(5):
        for mine, other, gradient in zip(own, theirs, gradients(step), strict=True):
            mine.grad, other.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        step_matrices(own, momenta, 0.02, 0.1, torch.tensor(True))
    for mine, other, first in zip(own, theirs, start, strict=True):
        # Batched and single products in bfloat16 round differently: within two hundredths of the distance moved.
        assert (mine - other).norm() < 0.02 * (other - first).norm()


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 40, 8), (2, 8, 40)])
def test_singular_values_come_near_one_and_their_vectors_stay(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = orthogonalised(matrices).float()
    values = torch.linalg.svdvals(result)
    assert (values > 0.3).all()
    assert (values < 1.6).all()
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    rotated = left.mT @ result @ right.mT
    off = rotated - torch.diag_embed(rotated.diagonal(dim1=-2, dim2=-1))
    assert off.abs().max() < 0.1


def test_a_matrix_without_a_gradient_only_decays() -> None:
    parameter = nn.Parameter(torch.ones(4, 4))
    step_matrices([parameter], [torch.zeros(4, 4)], 0.5, 0.1, torch.tensor(True))
    assert torch.allclose(parameter, torch.full((4, 4), 0.95))
