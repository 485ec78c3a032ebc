"""Shapes are checked in the first calls of a test, in some of the later ones, and not in all."""

import jaxtyping
import pytest
import torch
from beartype import beartype
from jaxtyping import Float
from torch import Tensor

from model.lm import transformer
from tests import shapes


def doubled(values: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    return torch.cat([values, values])


def test_wrong_shapes_are_found_in_the_first_calls_of_a_test_and_in_calls_by_powers_of_two() -> None:
    call, found = shapes.jaxtyped(typechecker=beartype)(doubled), []
    for _ in range(2):
        shapes.begin_test()
        for number in range(1, 70):
            try:
                call(torch.zeros(1, 2))
            except jaxtyping.TypeCheckError:
                found.append(number)
    assert found == [*range(1, 9), 16, 32, 64] * 2


def test_functions_of_the_model_are_checked() -> None:
    attend = transformer.Transformer.forward
    with pytest.raises(jaxtyping.TypeCheckError):
        attend(None, torch.zeros(3))
