"""Training a separator: it learns, repeatably, and its measure agrees with its definition."""

import pytest
import torch
from torch import nn

from stages.demo.separator import SeparatorTrainingConfig, learn_stems, scale_invariant_sdr

QUICK = {"steps": 40, "learning_rate": 0.05, "warmup_steps": 2, "weight_decay": 0.0, "precision": "float32"}
QUICK |= {"ema_decay": 0.5, "ema_interval": 1}


class Gains(nn.Module):
    """Each stem is the mix times a gain: the smallest model that can learn."""

    def __init__(self) -> None:
        super().__init__()
        self.gains = nn.Parameter(torch.zeros(2))

    def forward(self, mix: torch.Tensor) -> torch.Tensor:
        return mix[:, None] * self.gains[:, None, None]


def pieces() -> list[torch.Tensor]:
    noise = torch.randn(3, 1, 400, generator=torch.Generator().manual_seed(0))
    return [torch.cat([0.25 * one, 0.75 * one]) for one in noise]


def config(**changes: object) -> SeparatorTrainingConfig:
    values = {"segment_seconds": 1.0, "batch_size": 2, "optimization": QUICK} | changes
    return SeparatorTrainingConfig.model_validate(values)


def trained(seed: int) -> Gains:
    network = Gains()
    learn_stems(network, pieces(), 100, config(), seed, lambda step, loss: None)
    return network


def test_stems_are_learned_and_the_loss_falls():
    losses = []
    network = Gains()
    learn_stems(network, pieces(), 100, config(), 0, lambda step, loss: losses.append(loss))
    assert len(losses) == 40
    assert losses[-1] < losses[0] / 4
    torch.testing.assert_close(network.gains.detach(), torch.tensor([0.25, 0.75]), atol=0.15, rtol=0)
    assert not network.training


def test_equal_seeds_give_equal_weights_and_different_seeds_different_ones():
    assert torch.equal(trained(1).gains, trained(1).gains)
    assert not torch.equal(trained(1).gains, trained(2).gains)


def test_pieces_shorter_than_an_excerpt_are_refused():
    with pytest.raises(ValueError, match="at least 5 s, got 4 s"):
        learn_stems(Gains(), pieces(), 100, config(segment_seconds=5.0), 0, lambda step, loss: None)
    with pytest.raises(ValueError, match="got 0 s"):
        learn_stems(Gains(), [], 100, config(), 0, lambda step, loss: None)


def test_the_distortion_ratio_ignores_gain_and_counts_orthogonal_sound():
    target, rest = torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0, 1.0])
    estimate = target + 0.1 * rest
    assert float(scale_invariant_sdr(estimate, target)) == pytest.approx(20.0, abs=1e-3)
    assert float(scale_invariant_sdr(7 * estimate, target)) == pytest.approx(20.0, abs=1e-3)
    assert scale_invariant_sdr(torch.zeros(2, 8), torch.zeros(2, 8)).isfinite().all()
