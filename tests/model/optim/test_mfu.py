"""The number of operations of a training, and the rate that it is compared with."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model.lm.config import LanguageModelConfig
from model.lm.fuser import Condition
from model.lm.language_model import LanguageModel
from model.optim import mfu
from model.optim.mfu import matmul_rate, training_flops
from tests.worlds.tiny_model import random_codes

FRAMES = 64


@pytest.mark.parametrize("changes", [{}, {"key_value_heads": 2}, {"feedforward_width": 48}, {"cross": ()}])
def test_the_operations_of_a_step_are_those_that_torch_counts(changes: dict) -> None:
    torch.manual_seed(0)
    sizes = {"codebooks": 3, "cardinality": 24, "width": 32, "heads": 4, "layers": 3}
    config = LanguageModelConfig.model_validate(sizes | changes)
    model = LanguageModel(config)
    given = {name: Condition(torch.randn(2, 1, 32), torch.ones(2, 1, dtype=torch.bool)) for name in config.conditions}
    with FlopCounterMode(display=False) as counted, sdpa_kernel(SDPBackend.MATH):  # cannot see into fused kernels
        model.loss(random_codes(2, FRAMES), given).mean.backward()
    # torch also counts the scores of masked steps, and those of conditions and their projections.
    unseen = 2 * 3 * config.layers * 2 * config.width * FRAMES**2
    assert 2 * training_flops(config, FRAMES) + unseen == pytest.approx(counted.get_total_flops(), rel=0.05)


def test_frozen_matrices_cost_a_third_less() -> None:
    config = LanguageModelConfig()
    full, frozen = training_flops(config, 1), training_flops(config, 1, frozen=True)
    assert frozen == pytest.approx(2 / 3 * full, rel=1e-3)


def test_the_small_decoder_costs_six_operations_a_weight_and_step() -> None:
    config = LanguageModelConfig()
    with torch.device("meta"):
        weights = sum(value.numel() for value in LanguageModel(config).parameters() if value.ndim == 2)
    embeddings = config.codebooks * (config.cardinality + 1) * config.width
    source = config.layers * 2 * config.width**2  # keys and values of the conditions
    assert training_flops(config, 1) == pytest.approx(6 * (weights - embeddings - source), rel=1e-3)


def test_the_measured_rate_is_that_of_the_fastest_product(monkeypatch: pytest.MonkeyPatch) -> None:
    now, durations, shapes = [0.0], iter([4.0, 2.0, 0.5, 3.0, 2.0]), []

    def timed_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        shapes.append((left.shape, right.shape, left.dtype))
        now[0] += next(durations)
        return left

    monkeypatch.setattr(torch, "mm", timed_product)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    size = mfu.MEASURED_SIZES["cpu"]
    # Each of the size² results takes `size` multiplications and as many additions.
    assert matmul_rate(torch.device("cpu"), torch.float32) == 2 * size**3 / 0.5
    assert shapes == [((size, size), (size, size), torch.float32)] * mfu.REPETITIONS
