"""Numbers: their waves differ between close values, stay in range, and can be learned from."""

import math

import pytest
import torch
from hypothesis import given, strategies
from pydantic import ValidationError

from model.conditioning.conditioners import NumberConditioner, waves
from model.conditioning.config import NumberConfig

TEMPO = NumberConfig(lowest=40.0, highest=240.0)


def test_the_waves_are_sines_and_cosines_of_doubling_frequency() -> None:
    (found,) = waves(torch.tensor([90.0]), NumberConfig(lowest=40.0, highest=240.0, waves=3)).tolist()
    place = 0.25
    angles = [math.pi * place, 2 * math.pi * place, 4 * math.pi * place]
    assert found == pytest.approx([*map(math.sin, angles), *map(math.cos, angles)], abs=1e-7)


@given(strategies.floats(40, 240), strategies.floats(40, 240))
def test_different_tempos_have_different_waves_and_close_ones_similar_slow_waves(one: float, other: float) -> None:
    first, second = waves(torch.tensor([one, other], dtype=torch.float64), TEMPO)
    if abs(one - other) > 0.1:
        assert (first - second).abs().max() > 1e-3
    slowest = [0, TEMPO.waves]
    assert (first - second)[slowest].abs().max() <= math.pi * abs(one - other) / 200 + 1e-6
    assert first.abs().max() <= 1


def test_a_number_outside_the_range_counts_as_the_nearer_end() -> None:
    conditioner = NumberConditioner(TEMPO, 8)
    found = conditioner(conditioner.prepare([40.0, 12.0, 240.0, 999.0])).embedding
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[2], found[3])
    assert not torch.equal(found[0], found[2])


def test_a_missing_number_is_a_null_that_differs_from_every_number() -> None:
    conditioner = NumberConditioner(TEMPO, 8)
    found = conditioner(conditioner.prepare([None, *(40.0 + 5 * step for step in range(41))]))
    assert found.mask[:, 0].tolist() == [False] + [True] * 41
    assert not found.embedding[0].any()
    assert (found.embedding[1:].abs().amax(-1) > 0).all()


def test_a_projection_of_the_waves_learns_what_a_line_through_the_number_cannot() -> None:
    """Least squares: which third of the range a tempo is in."""
    tempos = torch.linspace(40, 240, 201)
    wanted = torch.stack([((tempos - 40) // 67 == third).float() for third in range(3)], dim=1)

    def error(features: torch.Tensor) -> float:
        features = torch.cat([features, torch.ones(len(tempos), 1)], dim=1)
        solution = torch.linalg.lstsq(features, wanted).solution
        return (features @ solution - wanted).square().mean().item()

    assert error(waves(tempos, TEMPO)) < 0.3 * error(tempos[:, None] / 240)


def test_invalid_numbers_and_ranges_are_refused() -> None:
    with pytest.raises(ValueError, match="expected a finite number or None, got nan"):
        NumberConditioner(TEMPO, 8).prepare([120.0, math.nan])
    with pytest.raises(ValidationError, match=r"expected lowest below highest, both finite, got 9\.0 and 9\.0"):
        NumberConfig(lowest=9.0, highest=9.0)
    with pytest.raises(ValidationError, match="both finite"):
        NumberConfig(lowest=0.0, highest=math.inf)
