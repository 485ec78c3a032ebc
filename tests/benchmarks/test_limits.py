"""The machine's limits: the fastest of all that was tried."""

import pytest
import torch

from model.kernels import operators
from tests.benchmarks import limits

CPU = torch.device("cpu")


@pytest.mark.parametrize("fastest", ["mm", "multiply_packed", "conv2d"])
def test_the_rate_is_that_of_the_fastest_library_and_shape(fastest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each product takes the time of its name, on a clock of the test."""
    rates = dict.fromkeys(("mm", "multiply_packed", "conv2d"), 1e9) | {fastest: 5e9}
    monkeypatch.setattr(limits, "matmul_rate", lambda device, dtype: rates["mm"])
    now = 0.0

    def told(name: str, operations: int):
        def act(*given: object) -> None:
            nonlocal now
            now += operations / rates[name]

        return act, operations

    monkeypatch.setattr(limits, "_onednn_products", lambda dtype: [told("multiply_packed", 7), told("conv2d", 9)])
    monkeypatch.setattr(limits, "wall_clock", lambda device: lambda: now)
    assert limits.multiplying_rate(CPU, torch.float32) == pytest.approx(5e9)


def test_without_onednn_the_rate_is_that_of_torchs_own_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "available", lambda library: False)
    monkeypatch.setattr(limits, "matmul_rate", lambda device, dtype: 3.0)
    assert limits.multiplying_rate(CPU, torch.bfloat16) == 3.0


def test_the_limit_of_emulated_bfloat16_is_that_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {torch.float32: 2.0, torch.bfloat16: 0.1}
    monkeypatch.setattr(limits, "bandwidth", lambda device: 1.0)
    monkeypatch.setattr(limits, "multiplying_rate", lambda device, dtype: rates[dtype])
    monkeypatch.setattr(limits, "multiplies_bfloat16", lambda: False)
    assert limits.limits("cpu") == limits.Limits(1.0, 2.0, 2.0)
    monkeypatch.setattr(limits, "multiplies_bfloat16", lambda: True)
    assert limits.limits("cpu") == limits.Limits(1.0, 2.0, 0.1)


def test_the_counted_operations_of_a_convolution_are_those_it_performs(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    monkeypatch.setitem(limits.MEASURED_SIZES, "cpu", 16)
    *_, (convolve, operations) = limits._onednn_products(torch.float32)
    with FlopCounterMode(display=False) as counter:
        convolve()
    assert counter.get_total_flops() == operations
