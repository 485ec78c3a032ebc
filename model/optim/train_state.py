"""How a network learns: AdamW or Muon, learning rate, clipping, averaged weights, and the exact state of all of it.

The defaults are MusicGen's (arXiv:2306.05284, 3.1): AdamW with betas (0.9, 0.95), decoupled weight decay 0.1, gradients
clipped to norm 1.0, a cosine learning rate after a linear warm-up of 4000 steps, and weights averaged with decay 0.99,
in which the initial weights have no share (AudioCraft's `optim/ema.py`).

`TrainState.state` is all that a later process needs to continue, bit for bit, as if there had been no interruption. It
holds no random generator, because every random draw of a training is a function of its seed and step (`step_seed`).
"""

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from model.optim.config import OptimizationConfig
from model.optim.muon import step_matrices

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""The state that AdamW holds for each parameter."""


def learning_rate(step: int, config: OptimizationConfig) -> float:
    """Return the learning rate of update `step` (from 0): linear to the peak over the warm-up, then half a cosine wave
    to the floor.

    Unlike AudioCraft's, whose warm-up starts at zero, the first update already has a learning rate above zero. The
    schedulers of `torch.optim` round differently: they multiply by the peak last, or compute each rate from the one
    before.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    share = config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return config.learning_rate * share


def newest_share(averaged: int, decay: float) -> float:
    """Return the weight of the newest of `averaged` values in their unbiased moving average.

    Every value has `decay` times the weight of the next, and the initial value of the average has none (AudioCraft's
    `optim/ema.py`; the bias correction of Adam, arXiv:1412.6980, 3).
    """
    return (1 - decay) / (1 - decay**averaged)


def parameter_checksums(model: nn.Module) -> dict[str, int]:
    """Return for every parameter the sum of its values, whose bits are read as whole numbers. If training changes a
    parameter, its sum stays the same only by chance."""
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    return {name: int(value.view(bits[value.itemsize]).sum()) for name, value in parameters.items()}


def check_moved(before: Mapping[str, int], model: nn.Module, config: OptimizationConfig) -> None:
    """Check that a training changed the model.

    Args:
        before: `parameter_checksums` of the model before the training.

    Raises:
        ValueError: no parameter has changed.
    """
    if parameter_checksums(model) == before:
        raise ValueError(
            f"expected {config.steps} steps of training to change the weights, got exactly the initial weights: raise "
            f"the learning rate ({config.learning_rate:g}) or the number of steps, and check that the gradients in the "
            "table training are finite and above 0"
        )


def step_seed(seed: int, *parts: int) -> int:
    """Return a seed of 63 bits for one purpose, as a function of the training's seed and `parts`, such as the step."""
    text = ",".join(str(int(part)) for part in (seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True, eq=False)
class StepStats:
    """Figures of one update. Its tensors are on the device, which may still be computing them; reading them waits."""

    learning_rate: float
    gradient_norm: Float[Tensor, ""]
    """2-norm of the gradients of all parameters before clipping."""
    applied: Bool[Tensor, ""]
    """False if a gradient was not finite, so that the update was skipped."""


class TrainState:
    """What a training changes: weights, moments, averaged weights, buffers, and the number of updates so far.

    Args:
        model: the model. Parameters that require a gradient are trained; the others do not change and are not
            averaged. Buffers (such as codebooks that learn by moving averages) are part of the state, but not of the
            average.
        config: how the parameters are updated.
        matrices: names of the matrices of hidden layers, which `config.optimizer` applies to.
        replicas: processes that have the same model and gradients and take each step together; None if there are
            none.

    Raises:
        ValueError: all parameters are frozen.
    """

    def __init__(
        self,
        model: nn.Module,
        config: OptimizationConfig,
        matrices: Collection[str] = (),
        replicas: dist.ProcessGroup | None = None,
    ) -> None:
        self.config, self.replicas = config, replicas
        self.parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        if not self.parameters:
            raise ValueError("expected a model with parameters to train, got one with all parameters frozen")
        # Only the buffers of the state dictionary: the others follow from the configuration.
        stored = model.state_dict().keys()
        self.buffers = {name: value for name, value in model.named_buffers() if name in stored}
        self.average = {name: value.detach().clone() for name, value in self.parameters.items()}
        muon_names = frozenset(matrices if config.optimizer == "muon" else ())
        self.momenta = {name: torch.zeros_like(value) for name, value in self.parameters.items() if name in muon_names}
        self.adam = torch.optim.AdamW(
            [value for name, value in self.parameters.items() if name not in muon_names],
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            fused=True,  # one pass over memory, where the other implementations need a dozen
        )
        self.updates = 0
        """Number of updates so far, including skipped ones."""
        self.skipped_steps = torch.zeros((), dtype=torch.int64, device=next(iter(self.parameters.values())).device)
        """Number of updates skipped in a row. Once it exceeds `max_skipped_steps`, it is never reset, so that a later
        check finds it."""

    def step(self) -> StepStats:
        """Update the weights with the accumulated gradients, and clear the gradients. Does not wait for the device.

        If a gradient is not finite, weights and moments do not change. The update still counts, so that the schedule
        and the order of the data do not change.
        """
        rate = learning_rate(self.updates, self.config)
        for group in self.adam.param_groups:
            group["lr"] = rate
        largest = math.inf if self.config.gradient_norm is None else self.config.gradient_norm
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), largest, foreach=True)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()  # the norm over all processes
        applied = norm.isfinite()
        # Fused AdamW reads these two on the device, as `torch.amp.GradScaler` sets them; if `found_inf` is 1, it does
        # not change anything.
        self.adam.grad_scale, self.adam.found_inf = None, (~applied).float()  # type: ignore[attr-defined]
        self.adam.step()
        if self.momenta:
            share = rate / self.config.learning_rate
            step_matrices(
                [self.parameters[name] for name in self.momenta],
                list(self.momenta.values()),
                share * self.config.matrix_learning_rate,
                self.config.weight_decay,
                applied,
                self.replicas,
            )
        for parameter in self.parameters.values():
            parameter.grad = None
        ends_row = applied & (self.skipped_steps <= self.config.max_skipped_steps)
        self.skipped_steps = torch.where(ends_row, 0, self.skipped_steps + 1)
        self.updates += 1
        if self.updates % self.config.ema_interval == 0:
            share = newest_share(self.updates // self.config.ema_interval, self.config.ema_decay)
            update_average = get_ema_multi_avg_fn(1 - share)
            update_average(list(self.average.values()), list(self.parameters.values()), self.updates)
        return StepStats(rate, norm, applied)

    def check_finite(self) -> None:
        """Wait for the device, and check that the latest gradients were finite.

        Raises:
            ValueError: more than `max_skipped_steps` updates in a row had gradients that were not finite.
        """
        skipped = int(self.skipped_steps)
        if skipped > self.config.max_skipped_steps:
            raise ValueError(
                f"expected finite gradients, got NaN or infinity in {skipped} updates in a row (step {self.updates}): "
                f"lower the learning rate ({self.config.learning_rate}) or train in float32"
            )

    def step_and_check(self) -> StepStats:
        """Call `step`, then `check_finite`; return the statistics of the step.

        Raises:
            ValueError: as `check_finite` does.
        """
        stats = self.step()
        self.check_finite()
        return stats

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the model its averaged weights within the context; restore the current weights, bit for bit, after it.

        Before `ema_interval` updates there is no average, and the model keeps its current weights.
        """
        if self.updates < self.config.ema_interval:
            yield
            return
        with self.replaced(self.average):
            yield

    @contextmanager
    def replaced(self, weights: Mapping[str, Shaped[Tensor, "..."]]) -> Iterator[None]:
        """Give the trained parameters other values within the context; restore the current values, bit for bit."""
        current_values = {name: value.detach().clone() for name, value in self.parameters.items()}
        _copy(self.parameters, weights)
        try:
            yield
        finally:
            _copy(self.parameters, current_values)

    def keep_averaged(self) -> None:
        """Replace the model's weights by the averaged weights for good, at the end of a training."""
        if self.updates >= self.config.ema_interval:
            _copy(self.parameters, self.average)

    def state(self) -> dict[str, Tensor]:
        """Return everything that later updates depend on, as named tensors on the CPU: weights, averaged weights,
        moments, buffers and counters."""
        return {name: value.cpu().contiguous() for name, value in self.tensors().items()}

    def begin_moments(self) -> None:
        """Allocate zero moments for each parameter of AdamW that has none yet, so that a saved state can be loaded into
        them."""
        for group in self.adam.param_groups:
            for parameter in group["params"]:
                if parameter not in self.adam.state:
                    count = torch.zeros((), device=parameter.device)
                    moments = (count, torch.zeros_like(parameter), torch.zeros_like(parameter))
                    self.adam.state[parameter] = dict(zip(MOMENTS, moments, strict=True))

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of `state` themselves, on the device; for a sharded model, this process's part of them."""
        state = {"updates": torch.tensor(self.updates), "skipped_steps": self.skipped_steps}
        for name, parameter in self.parameters.items():
            state[f"weights.{name}"] = parameter.detach()
            state[f"average.{name}"] = self.average[name]
            for moment in MOMENTS:
                if parameter in self.adam.state:
                    state[f"{moment}.{name}"] = self.adam.state[parameter][moment]
        state |= {f"momentum.{name}": value for name, value in self.momenta.items()}
        state |= {f"buffers.{name}": value for name, value in self.buffers.items()}
        return state

    def load(self, state: Mapping[str, Shaped[Tensor, "..."]]) -> None:
        """Load a state that `state` returned, by copying it.

        Raises:
            ValueError: the state is that of another model.
        """
        for kind, noun, own in (("weights", "parameters", self.parameters), ("buffers", "buffers", self.buffers)):
            got = {name.removeprefix(f"{kind}.") for name in state if name.startswith(f"{kind}.")}
            if set(own) != got:
                differing = sorted(set(own) ^ got)[:3]
                raise ValueError(f"expected the state of {len(own)} {noun}, got {len(got)}; not in both: {differing}")
        self.updates = int(state["updates"])
        self.skipped_steps = state["skipped_steps"].to(self.skipped_steps.device, copy=True)
        _copy(self.parameters, {name: state[f"weights.{name}"] for name in self.parameters})
        _copy(self.buffers, {name: state[f"buffers.{name}"] for name in self.buffers})
        _copy(self.momenta, {name: state[f"momentum.{name}"] for name in self.momenta})
        self.adam.state.clear()
        for name, parameter in self.parameters.items():
            self.average[name] = state[f"average.{name}"].to(parameter.device, copy=True)
            if f"exp_avg.{name}" in state:
                self.adam.state[parameter] = {
                    moment: state[f"{moment}.{name}"].to(parameter.device, copy=True) for moment in MOMENTS
                }


def _copy(into: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copy tensors into others of the same names, in place."""
    with torch.no_grad():
        for name, value in into.items():
            if value.shape != values[name].shape:
                raise ValueError(f"expected {name} of {tuple(value.shape)}, got {tuple(values[name].shape)}")
            value.copy_(values[name])
