"""The optimisation of a network: schedule, averaging, accumulation and an exact state."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from model.optim.train_state import (
    OptimizationConfig,
    TrainState,
    check_moved,
    learning_rate,
    parameter_checksums,
    step_seed,
)


def small(**changes: object) -> OptimizationConfig:
    values = {"steps": 40, "warmup_steps": 5, "learning_rate": 1e-2, "ema_interval": 1, "precision": "float32"}
    return OptimizationConfig.model_validate(values | changes)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 2))


def descend(model: nn.Module, train_state: TrainState, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step_seed(7, step))
        inputs = torch.randn(4, 3, generator=generator)
        F.mse_loss(model(inputs), inputs[:, :2].sin()).backward()
        train_state.step_and_check()


def test_the_learning_rate_rises_linearly_then_falls_as_half_a_cosine_to_the_floor() -> None:
    config = small(steps=105, warmup_steps=5, learning_rate=2.0, floor=0.1)
    assert [learning_rate(step, config) for step in range(5)] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert learning_rate(5, config) == 2.0
    assert learning_rate(55, config) == pytest.approx(2.0 * (0.1 + 0.9 / 2))
    assert learning_rate(105, config) == pytest.approx(0.2)
    falling = [learning_rate(step, config) for step in range(5, 106)]
    assert falling == sorted(falling, reverse=True)


def test_seeds_are_repeatable_and_differ_with_every_part() -> None:
    assert step_seed(1, 2, 3) == step_seed(1, 2, 3)
    assert len({step_seed(1, 2, 3), step_seed(1, 3, 2), step_seed(1, 2), step_seed(2, 2, 3), step_seed(12, 3)}) == 5
    assert all(0 <= step_seed(seed) < 2**63 for seed in range(100))


def test_the_updates_equal_adamw_written_out() -> None:
    config = small(weight_decay=0.1, gradient_norm=0.5)
    parameter = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    holder = nn.Module()
    holder.register_parameter("w", parameter)
    train_state = TrainState(holder, config)
    value, first, second = parameter.detach().clone(), torch.zeros(3).double(), torch.zeros(3).double()
    for step in range(12):
        raw = torch.tensor([math.sin(step), 0.3, -2.0], dtype=torch.float64) * parameter.detach()
        parameter.grad = raw.clone()
        stats = train_state.step_and_check()
        assert float(stats.gradient_norm) == pytest.approx(float(raw.norm()))
        gradient = raw * min(1.0, 0.5 / (float(raw.norm()) + 1e-6))
        rate = learning_rate(step, config)
        first, second = 0.9 * first + 0.1 * gradient, 0.95 * second + 0.05 * gradient**2
        value = value * (1 - rate * 0.1)
        value -= rate * (first / (1 - 0.9 ** (step + 1))) / ((second / (1 - 0.95 ** (step + 1))).sqrt() + 1e-8)
        torch.testing.assert_close(parameter.detach(), value, atol=1e-10, rtol=0)


def test_without_a_maximum_norm_gradients_are_not_clipped() -> None:
    def moments(largest: float | None) -> torch.Tensor:
        holder = nn.Linear(2, 1, bias=False)
        train_state = TrainState(holder, small(gradient_norm=largest))
        holder.weight.grad = torch.tensor([[30.0, -40.0]])
        assert float(train_state.step_and_check().gradient_norm) == pytest.approx(50.0)
        return train_state.state()["exp_avg.weight"]

    torch.testing.assert_close(moments(None), 50 * moments(1.0), rtol=1e-5, atol=0)
    assert torch.equal(moments(None), moments(100.0))


@pytest.mark.parametrize("steps", [1, 9, 10, 15, 100, 1000])
def test_averaged_weights_are_the_unbiased_average_after_any_number_of_steps(steps: int) -> None:
    """AudioCraft's formula written out: of weights v at every tenth step, sum d^(n-i) v_i / sum d^(n-i)."""
    holder = nn.Module()
    weight = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    holder.register_parameter("weight", weight)
    train_state = TrainState(holder, small(steps=1000, learning_rate=5e-3, ema_decay=0.99, ema_interval=10))
    seen = []
    for _ in range(steps):
        F.mse_loss(weight, torch.ones_like(weight)).backward()
        train_state.step_and_check()
        seen.append(weight.detach().clone())
    taken = seen[9::10] or seen[-1:]
    shares = [0.99 ** (len(taken) - i) for i in range(1, len(taken) + 1)]
    expected = sum(share * value for share, value in zip(shares, taken, strict=True)) / sum(shares)
    assert float(expected[0]) > 0
    with train_state.averaged():
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-12, atol=0)
    assert torch.equal(weight, seen[-1])
    train_state.keep_averaged()
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-12, atol=0)


def test_the_first_averaged_weights_are_the_newest_bit_for_bit() -> None:
    model = network()
    train_state = TrainState(model, small(ema_interval=4))
    descend(model, train_state, range(4))
    assert all(torch.equal(train_state.average[name], value) for name, value in model.named_parameters())
    moving = {name: value.detach().clone() for name, value in model.named_parameters()}
    descend(model, train_state, range(4, 8))
    with train_state.averaged():
        assert not any(torch.equal(value, moving[name]) for name, value in model.named_parameters())


def test_a_training_that_moved_no_weight_is_refused() -> None:
    model = network()
    before, config = parameter_checksums(model), small(steps=3)
    train_state = TrainState(model, config)
    for _ in range(3):
        (model(torch.randn(4, 3)).sum() * math.nan).backward()
        train_state.step_and_check()
    with pytest.raises(ValueError, match="expected 3 steps of training to change the weights, got exactly the initial"):
        check_moved(before, model, config)
    descend(model, train_state, range(3, 4))
    check_moved(before, model, config)


@pytest.mark.parametrize("at", [0, 1, 17])
def test_a_training_resumed_in_another_process_continues_bit_for_bit(at: int) -> None:
    undisturbed = network()
    whole = TrainState(undisturbed, small())
    descend(undisturbed, whole, range(40))

    model = network()
    before = TrainState(model, small())
    descend(model, before, range(at))
    state = {name: value.clone() for name, value in before.state().items()}
    other = network(seed=99)
    after = TrainState(other, small())
    after.load(state)
    assert after.updates == at
    descend(other, after, range(at, 40))
    expected, got = whole.state(), after.state()
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


class _Counting(nn.Module):
    """A network with buffers: a running mean, which moves in training and is stored, and a table, which is neither."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.network = network(seed)
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("table", torch.arange(3.0), persistent=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * inputs.detach().mean(0))
        return self.network(inputs - self.mean + self.table)


def test_buffers_are_restored_bit_for_bit_and_are_not_averaged() -> None:
    undisturbed, killed, resumed = _Counting(), _Counting(), _Counting(seed=99)
    whole = TrainState(undisturbed, small())
    descend(undisturbed, whole, range(40))
    before = TrainState(killed, small())
    descend(killed, before, range(17))
    after = TrainState(resumed, small())
    after.load(before.state())
    assert torch.equal(resumed.mean, killed.mean)
    descend(resumed, after, range(17, 40))
    expected, got = whole.state(), after.state()
    assert expected.keys() == got.keys()
    assert [name for name in expected if name.startswith("buffers.")] == ["buffers.mean"]
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    with whole.averaged():
        assert torch.equal(undisturbed.mean, expected["buffers.mean"])
    del got["buffers.mean"]
    with pytest.raises(ValueError, match=r"expected the state of 1 buffers, got 0; not in both: \['mean'\]"):
        after.load(got)


def test_frozen_weights_neither_move_nor_are_part_of_the_state() -> None:
    model = network()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    train_state = TrainState(model, small())
    descend(model, train_state, range(3))
    assert torch.equal(model[0].weight, before)
    assert not any("0." in name for name in train_state.state())


def test_a_gradient_that_is_not_finite_leaves_the_weights_and_counts_as_a_step() -> None:
    model = network()
    train_state = TrainState(model, small(max_skipped_steps=2))
    descend(model, train_state, range(2))
    before = train_state.state()
    before = {name: value.clone() for name, value in before.items() if name.startswith(("weights", "exp", "step."))}
    (model(torch.randn(4, 3)).sum() * math.nan).backward()
    assert not train_state.step_and_check().applied
    after = train_state.state()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert train_state.updates == 3
    descend(model, train_state, range(3, 4))
    for _ in range(2):
        (model(torch.randn(4, 3)).sum() * math.inf).backward()
        train_state.step_and_check()
    (model(torch.randn(4, 3)).sum() * math.inf).backward()
    with pytest.raises(ValueError, match="expected finite gradients, got NaN or infinity in 3 updates in a row"):
        train_state.step_and_check()


def test_the_state_of_another_model_is_refused() -> None:
    state = TrainState(network(), small()).state()
    with pytest.raises(ValueError, match="expected the state of 2 parameters, got 4"):
        TrainState(nn.Linear(3, 8), small()).load(state)
    with pytest.raises(ValueError, match="all parameters frozen"):
        TrainState(nn.Linear(3, 8).requires_grad_(False), small())


def test_training_lowers_the_loss() -> None:
    model = network()
    inputs = torch.randn(64, 3)
    before = F.mse_loss(model(inputs), inputs[:, :2].sin()).item()
    descend(model, TrainState(model, small(steps=200, weight_decay=0.0)), range(200))
    assert F.mse_loss(model(inputs), inputs[:, :2].sin()).item() < 0.3 * before


def muon_pair(steps: int, **changes: object) -> tuple[nn.Sequential, TrainState]:
    model = network()
    return model, TrainState(model, small(optimizer="muon", steps=steps, **changes), ["0.weight", "2.weight"])


def test_an_interrupted_training_with_muon_resumes_bit_for_bit() -> None:
    whole, state = muon_pair(8)
    descend(whole, state, range(8))
    first, interrupted = muon_pair(8)
    descend(first, interrupted, range(4))
    second, resumed = muon_pair(8)
    resumed.load(interrupted.state())
    descend(second, resumed, range(4, 8))
    for name, value in state.state().items():
        assert torch.equal(resumed.state()[name], value), name


def test_a_gradient_that_is_not_finite_leaves_matrices_and_momenta_unchanged() -> None:
    model, state = muon_pair(8)
    descend(model, state, range(2))
    before = {name: value.clone() for name, value in state.state().items() if name.startswith(("weights", "momentum"))}
    model(torch.full((1, 3), torch.nan)).sum().backward()
    assert not state.step().applied
    after = state.state()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    descend(model, state, range(3, 4))
    assert not torch.equal(state.state()["weights.0.weight"], before["weights.0.weight"])
