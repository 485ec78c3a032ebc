"""The balancer of gradients: AudioCraft's numbers, and that a weight is a share."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.codec.config import BalancerConfig
from model.codec.losses import Balancer, weighted_sum
from tests.worlds.oracles import Pack, read_pack

WEIGHTS = {"loud": 1.0, "quiet": 3.0}


def losses_of(pack: Pack, sound: Tensor) -> dict[str, Tensor]:
    """The losses that the pack's JSON writes down."""
    a, b, w = (pack.tensors[name] for name in "abw")
    return {
        "l1": (sound - a).abs().mean(),
        "mse": 50 * (sound - b).square().mean(),
        "lin": 0.001 * (sound * w).sum(),
    }


def noise(seed: int) -> Tensor:
    return torch.randn(3, 1, 50, generator=torch.Generator().manual_seed(seed))


def two_losses(sound: Tensor, seed: int = 9) -> dict[str, Tensor]:
    return {"loud": 1e4 * (sound * noise(seed)).sum(), "quiet": 1e-4 * (sound * noise(seed + 1)).sum()}


@pytest.mark.parametrize("name", ["default", "ema05", "nobatch"])
def test_four_steps_equal_the_oracle(oracles: Path, name: str) -> None:
    pack = read_pack(oracles, "balancer")
    (case,) = [one for one in pack.cases if one["name"] == name]
    config = BalancerConfig(
        total_norm=case["total_norm"],
        decay=case["ema_decay"],
        per_item=case["per_batch_item"],
        epsilon=case["epsilon"],
    )
    balancer = Balancer(case["weights"], config)
    for step in range(4):
        sound = pack.tensors[f"y{step}"].clone().requires_grad_()
        balanced = balancer(losses_of(pack, sound), sound)
        prefix = f"{name}.step{step}"
        torch.testing.assert_close(balanced.loss, pack.tensors[f"{prefix}.effective_loss"], rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(balanced.gradient, pack.tensors[f"{prefix}.grad"], rtol=1e-4, atol=1e-7)
        for one, share in balanced.shares.items():
            wanted = pack.tensors[f"{prefix}.ratio_{one}"]
            torch.testing.assert_close(share.to(wanted.dtype), wanted, rtol=1e-4, atol=0)


def test_the_plain_sum_equals_the_oracle_without_a_balance(oracles: Path) -> None:
    pack = read_pack(oracles, "balancer")
    (case,) = [one for one in pack.cases if not one["balance_grads"]]
    for step in range(4):
        sound = pack.tensors[f"y{step}"].clone().requires_grad_()
        loss = weighted_sum(losses_of(pack, sound), case["weights"])
        loss.backward()
        wanted = pack.tensors[f"nobalance.step{step}.effective_loss"]
        torch.testing.assert_close(loss.detach(), wanted, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(sound.grad, pack.tensors[f"nobalance.step{step}.grad"], rtol=1e-4, atol=1e-7)


def test_a_weight_is_the_share_of_the_gradient_whatever_the_size_of_the_loss() -> None:
    sound = noise(0).requires_grad_()
    balancer = Balancer(WEIGHTS, BalancerConfig(per_item=False, total_norm=2.0))
    balanced = balancer(two_losses(sound), sound)
    loud, quiet = noise(9) / noise(9).norm(), noise(10) / noise(10).norm()
    torch.testing.assert_close(balanced.gradient, 2.0 * (0.25 * loud + 0.75 * quiet))


def test_the_norm_is_an_average_so_a_sudden_gradient_stays_large() -> None:
    balancer = Balancer(WEIGHTS, BalancerConfig(decay=0.9))
    sound = noise(0).requires_grad_()
    for _ in range(20):
        usual = balancer(two_losses(sound), sound).gradient.norm()
    losses = {name: 10 * loss for name, loss in two_losses(sound).items()}
    assert 4 * usual < balancer(losses, sound).gradient.norm() < 10 * usual


def test_a_gradient_that_is_not_finite_spoils_no_average() -> None:
    balancer = Balancer(WEIGHTS, BalancerConfig())
    sound = noise(0).requires_grad_()
    before = balancer(two_losses(sound), sound).gradient
    broken = two_losses(sound)
    broken["loud"] = broken["loud"] * float("nan")
    assert not balancer(broken, sound).gradient.isfinite().all()
    torch.testing.assert_close(balancer(two_losses(sound), sound).gradient, before)


def test_a_state_brings_back_the_averages_bit_for_bit() -> None:
    def last(balancer: Balancer, steps: range) -> Tensor:
        for step in steps:
            sound = noise(step).requires_grad_()
            found = balancer(two_losses(sound, seed=20 + step), sound).gradient
        return found

    undisturbed, first, second = (Balancer(WEIGHTS, BalancerConfig(decay=0.5)) for _ in range(3))
    expected = last(undisturbed, range(4))
    last(first, range(2))
    second.load(first.state())
    assert torch.equal(last(second, range(2, 4)), expected)
    with pytest.raises(ValueError, match="expected the averages of 1 losses, got 2"):
        Balancer({"one": 1.0}, BalancerConfig()).load(first.state())


def test_losses_and_weights_that_do_not_belong_together_are_refused() -> None:
    sound = noise(0).requires_grad_()
    with pytest.raises(ValueError, match=r"expected the losses \['loud', 'quiet'\], got \['loud'\]"):
        Balancer(WEIGHTS, BalancerConfig())({"loud": sound.sum()}, sound)
    with pytest.raises(ValueError, match="weights above 0"):
        Balancer({"loud": 0.0}, BalancerConfig())
