"""How a network learns: AdamW or Muon, learning rate, clipping, averaged weights, and the exact state of all of it.

MusicGen (arXiv:2306.05284, 3.1): AdamW with betas (0.9, 0.95), decoupled weight decay 0.1, gradients clipped to norm
1.0, a cosine learning rate after a linear warm-up of 4000 steps, weights averaged with decay 0.99, without a share of
the initial ones (AudioCraft's `optim/ema.py`). `state` is all that a later process needs to go on as if nothing had
happened, bit for bit: no random generator is part of it, because every draw of a training is a function of its seed and
step (`step_seed`).
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
"""What AdamW keeps for each parameter."""


def learning_rate(step: int, config: OptimizationConfig) -> float:
    """Return the learning rate of update `step` (from 0): linear to the peak over the warm-up, then half a cosine wave
    to the floor. The first update already moves, unlike AudioCraft's, whose warm-up starts at zero.

    Schedulers of `torch.optim` give other roundings: they multiply by the peak last, or go from rate to rate.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    share = config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return config.learning_rate * share


def newest_share(averaged: int, decay: float) -> float:
    """Return the share of the newest of `averaged` values in their unbiased average, in which every value counts
    `decay` times as much as the next one, and what the average was before them counts nothing (AudioCraft's
    `optim/ema.py`; the bias correction of Adam, arXiv:1412.6980, 3)."""
    return (1 - decay) / (1 - decay**averaged)


def parameter_checksums(model: nn.Module) -> dict[str, int]:
    """Return the sum of every parameter's values, taken as whole numbers: a training that moves a parameter leaves it
    with the same sum by chance only."""
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    return {name: int(value.view(bits[value.itemsize]).sum()) for name, value in parameters.items()}


def check_moved(before: Mapping[str, int], model: nn.Module, config: OptimizationConfig) -> None:
    """Check that a training left something.

    Args:
        before: `parameter_checksums` of the model that it began with.

    Raises:
        ValueError: every parameter is what it was.
    """
    if parameter_checksums(model) == before:
        raise ValueError(
            f"expected weights that {config.steps} steps of training moved, got those that it began with, bit for bit: "
            f"raise the learning rate ({config.learning_rate:g}) or the number of steps, and see whether the gradients "
            "in the table training are finite and above 0"
        )


def step_seed(seed: int, *parts: int) -> int:
    """Return a seed of 63 bits for one purpose: a function of the training's seed, the step and the other parts."""
    text = ",".join(str(int(part)) for part in (seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True, eq=False)
class StepStats:
    """What one update was like. The device may still be at work on its tensors: reading them waits for it."""

    learning_rate: float
    gradient_norm: Float[Tensor, ""]
    """2-norm over all parameters before clipping."""
    applied: Bool[Tensor, ""]
    """False where a gradient was not finite, so that the update was skipped."""


class TrainState:
    """What a training changes: weights, moments, averaged weights, buffers, and the number of updates so far.

    Args:
        model: its parameters that require a gradient are trained; the others never move and are not averaged. Its
            buffers (codebooks that learn by moving averages of their own) are part of the state, not of the average.
        config: how they move.
        matrices: names of the parameters that `config.optimizer` is about, matrices of hidden layers.
        replicas: processes that have the same model and the same gradients, and take each step together; None where
            there are no others.

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
            raise ValueError("expected a model with parameters to train, got one whose parameters are all frozen")
        # Only what a state dictionary holds: other buffers follow from the configuration.
        stored = model.state_dict().keys()
        self.buffers = {name: value for name, value in model.named_buffers() if name in stored}
        self.average = {name: value.detach().clone() for name, value in self.parameters.items()}
        by_muon = frozenset(matrices if config.optimizer == "muon" else ())
        self.momenta = {name: torch.zeros_like(value) for name, value in self.parameters.items() if name in by_muon}
        self.adam = torch.optim.AdamW(
            [value for name, value in self.parameters.items() if name not in by_muon],
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            fused=True,  # one pass over memory, where the others make a dozen
        )
        self.updates = 0
        """Updates so far, those that were skipped among them."""
        self.skipped_steps = torch.zeros((), dtype=torch.int64, device=next(iter(self.parameters.values())).device)
        """Updates skipped in a row; once there are more than `max_skipped_steps`, it only grows."""

    def step(self) -> StepStats:
        """Move the weights along the gradients that have been accumulated, and clear these. Does not wait for the
        device.

        A gradient that is not finite leaves weights and moments as they were; the update still counts, so the schedule
        and the order of the data stay what they were.
        """
        rate = learning_rate(self.updates, self.config)
        for group in self.adam.param_groups:
            group["lr"] = rate
        largest = math.inf if self.config.gradient_norm is None else self.config.gradient_norm
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), largest, foreach=True)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()  # of what all processes hold
        applied = norm.isfinite()
        # Fused AdamW reads these two on the device, as `torch.amp.GradScaler` uses them, and may leave all as it was.
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
        """Wait for the device, and look at the gradients of the last updates.

        Raises:
            ValueError: more than `max_skipped_steps` updates in a row had gradients that were not finite.
        """
        skipped = int(self.skipped_steps)
        if skipped > self.config.max_skipped_steps:
            raise ValueError(
                f"expected finite gradients, got {skipped} updates in a row without (step {self.updates}): lower "
                f"the learning rate ({self.config.learning_rate}) or train in float32"
            )

    def step_and_check(self) -> StepStats:
        """Do both: `step` and `check_finite`.

        Raises:
            ValueError: as `check_finite` does.
        """
        stats = self.step()
        self.check_finite()
        return stats

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the model its averaged weights inside; after it, the moving ones again, bit for bit.

        Before the first `ema_interval` updates nothing has been averaged, and it keeps its weights as they are.
        """
        if self.updates < self.config.ema_interval:
            yield
            return
        with self.replaced(self.average):
            yield

    @contextmanager
    def replaced(self, weights: Mapping[str, Shaped[Tensor, "..."]]) -> Iterator[None]:
        """Give the parameters that learn other values inside; after it, the moving ones again, bit for bit."""
        moving = {name: value.detach().clone() for name, value in self.parameters.items()}
        _copy(self.parameters, weights)
        try:
            yield
        finally:
            _copy(self.parameters, moving)

    def keep_averaged(self) -> None:
        """Leave the model with its averaged weights for good: the training is over."""
        if self.updates >= self.config.ema_interval:
            _copy(self.parameters, self.average)

    def state(self) -> dict[str, Tensor]:
        """Return all that the next update depends on, as named tensors on the CPU: weights, averaged weights, moments,
        buffers, and counters."""
        return {name: value.cpu().contiguous() for name, value in self.tensors().items()}

    def begin_moments(self) -> None:
        """Give each parameter of AdamW the moments that it has before the first update, if it has none: a place for
        those of a saved state."""
        for group in self.adam.param_groups:
            for parameter in group["params"]:
                if parameter not in self.adam.state:
                    count = torch.zeros((), device=parameter.device)
                    moments = (count, torch.zeros_like(parameter), torch.zeros_like(parameter))
                    self.adam.state[parameter] = dict(zip(MOMENTS, moments, strict=True))

    def tensors(self) -> dict[str, Tensor]:
        """Return what `state` does as it is, on the device; of a sharded model, what this process has of it."""
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
        """Copy a state that `state` gave into place.

        Raises:
            ValueError: it is the state of another model.
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
