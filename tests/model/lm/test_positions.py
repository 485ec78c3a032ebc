"""Positions: sinusoids with the tabulated values, and rotations of which only the distance matters."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.lm.config import LanguageModelConfig
from model.lm.positions import position_table, positions, rotation, rotation_frequencies, xpos_decay_rates

CPU = torch.device("cpu")


def _config(**changes: object) -> LanguageModelConfig:
    return LanguageModelConfig.model_validate({"width": 32, "heads": 4, "cross": ()} | changes)


def test_sinusoids_are_cosines_then_sines_of_periods_from_one_to_the_longest() -> None:
    table = position_table(7, 8, 10_000.0, CPU)
    for step in range(7):
        for place in range(4):
            phase = step / 10_000 ** (place / 3)
            assert table[step, place].item() == pytest.approx(math.cos(phase), abs=1e-6)
            assert table[step, 4 + place].item() == pytest.approx(math.sin(phase), abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 400), st.integers(0, 400), st.integers(0, 400), st.booleans(), st.integers(0, 1000))
def test_products_of_rotated_queries_and_keys_depend_only_on_their_distance(
    step: int, other: int, shift: int, xpos: bool, seed: int
) -> None:
    turned = rotation(801, 8, _config(positions="rotary", xpos=xpos), CPU)
    vectors = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(seed))
    queries = turned.of_queries(vectors[0].expand(1, 1, 801, 8))[0, 0].double()
    keys = turned.of_keys(vectors[1].expand(1, 1, 801, 8))[0, 0].double()
    here, there = queries[step] @ keys[other], queries[step + shift] @ keys[other + shift]
    # At negative distances, which causality excludes, the decay becomes growth.
    torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-3 * max(1.0, 4 ** ((other - step) / 512)))


def test_a_rotation_keeps_lengths_and_leaves_the_first_step_unchanged() -> None:
    turned, vectors = rotation(50, 8, _config(positions="rotary"), CPU), torch.randn(2, 3, 50, 8)
    found = turned.of_queries(vectors)
    torch.testing.assert_close(found.norm(dim=-1), vectors.norm(dim=-1))
    assert torch.equal(found[:, :, 0], vectors[:, :, 0])
    assert torch.equal(found, turned.of_keys(vectors))


def test_xpos_products_decay_by_their_rates_every_512_steps() -> None:
    turned = rotation(1025, 8, _config(positions="rotary", xpos=True), CPU)
    rates = xpos_decay_rates(8, CPU)
    torch.testing.assert_close(rates, torch.tensor([0.4, 0.65, 0.9, 1.15]) / 1.4)
    torch.testing.assert_close(turned.queries.norm(dim=0)[1024], rates**2)
    torch.testing.assert_close(turned.keys.norm(dim=0)[1024], rates**-2)


def test_rotation_frequencies_fall_from_one_step_to_nearly_the_longest_period() -> None:
    torch.testing.assert_close(rotation_frequencies(8, 10_000.0, CPU), torch.tensor([1, 0.1, 0.01, 0.001]))


def test_a_position_scale_of_zero_turns_positions_off() -> None:
    place = positions(9, _config(positions="both", xpos=True, position_scale=0.0), CPU)
    vectors = torch.randn(1, 2, 9, 8)
    assert place.sinusoids is not None
    assert place.rotation is not None
    assert (place.sinusoids == 0).all()
    assert torch.equal(place.rotation.of_queries(vectors), vectors)
    assert torch.equal(place.rotation.of_keys(vectors), vectors)


@pytest.mark.parametrize("kind", ["sinusoidal", "rotary", "both"])
def test_positions_between_steps_are_a_slice_of_the_whole(kind: str) -> None:
    place = positions(9, _config(positions=kind), CPU)
    part = place.between(3, 5)
    assert (place.sinusoids is None) == (part.sinusoids is None) == (kind == "rotary")
    assert (place.rotation is None) == (part.rotation is None) == (kind == "sinusoidal")
    if place.sinusoids is not None:
        assert torch.equal(part.sinusoids, place.sinusoids[3:5])
    if place.rotation is not None:
        vectors = torch.randn(1, 1, 9, 8)
        assert torch.equal(part.rotation.of_keys(vectors[:, :, 3:5]), place.rotation.of_keys(vectors)[:, :, 3:5])
