"""How a network learns: AdamW, learning rate, clipping, averaged weights, and the exact state of all of it.

MusicGen (arXiv:2306.05284, 3.1): AdamW with betas (0.9, 0.95), decoupled weight decay 0.1, gradients clipped to norm
1.0, a cosine learning rate after a linear warm-up of 4000 steps, weights averaged with decay 0.99. `state` is all that
a later process needs to go on as if nothing had happened, bit for bit: no random generator is part of it, because every
draw of a training is a function of its seed and step (`step_seed`).
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from model.optim.config import OptimizationConfig

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps for each parameter."""


def learning_rate(step: int, config: OptimizationConfig) -> float:
    """The learning rate of update `step` (from 0): linear to the peak over the warm-up, then half a cosine wave to the
    floor. The first update already moves, unlike AudioCraft's, whose warm-up starts at zero."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    share = config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return config.learning_rate * share


def step_seed(seed: int, *parts: int) -> int:
    """A seed of 63 bits for one purpose: a function of the training's seed, the step and whatever else is given."""
    text = ",".join(str(int(part)) for part in (seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True)
class Update:
    """What one update was like."""

    learning_rate: float
    gradient_norm: float
    """2-norm over all parameters before clipping."""
    applied: bool
    """False where a gradient was not finite, so that the weights stayed as they were."""


@dataclass(frozen=True, eq=False)
class Move:
    """An `Update` that the device may still be at work on."""

    learning_rate: float
    gradient_norm: Float[Tensor, ""]
    applied: Bool[Tensor, ""]

    def read(self) -> Update:
        """Wait for the device."""
        return Update(self.learning_rate, float(self.gradient_norm), bool(self.applied))


class Optimization:
    """The moving state of a training: moments, averaged weights, buffers, and the number of updates asked for so far.

    Args:
        model: its parameters that require a gradient are trained; the others never move and are not averaged. Its
            buffers (codebooks that learn by moving averages of their own) are part of the state, not of the average.
        config: how they move.
    """

    def __init__(self, model: nn.Module, config: OptimizationConfig) -> None:
        self.config = config
        self.parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        if not self.parameters:
            raise ValueError("expected a model with parameters to train, got one whose parameters are all frozen")
        # Only what a state dictionary holds: other buffers follow from the configuration.
        stored = model.state_dict().keys()
        self.buffers = {name: value for name, value in model.named_buffers() if name in stored}
        self.average = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.adam = torch.optim.AdamW(
            list(self.parameters.values()),
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            fused=True,  # one pass over memory, where the others make a dozen
        )
        self.step = 0
        self.left_out = torch.zeros((), dtype=torch.int64, device=next(iter(self.parameters.values())).device)
        """Updates in a row without finite gradients; once there are more than `patience`, it only grows."""

    def update(self) -> Update:
        """`move`, and wait for the device to tell what came of it.

        Raises:
            ValueError: as `check` does.
        """
        update = self.move().read()
        self.check()
        return update

    def move(self) -> Move:
        """Move the weights along the gradients that have been accumulated, and clear them; nothing here waits for the
        device.

        A gradient that is not finite leaves weights and moments as they were; the step still counts, so the schedule
        and the order of the data stay what they were.
        """
        rate = learning_rate(self.step, self.config)
        for group in self.adam.param_groups:
            group["lr"] = rate
        largest = math.inf if self.config.gradient_norm is None else self.config.gradient_norm
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), largest, foreach=True)
        applied = norm.isfinite()
        # Fused AdamW reads these two on the device, as `torch.amp.GradScaler` uses them, and may leave all as it was.
        self.adam.grad_scale, self.adam.found_inf = None, (~applied).float()  # type: ignore[attr-defined]
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        again = applied & (self.left_out <= self.config.patience)
        self.left_out = torch.where(again, 0, self.left_out + 1)
        self.step += 1
        if self.step % self.config.ema_interval == 0:
            torch._foreach_lerp_(
                list(self.average.values()),
                [value.detach() for value in self.parameters.values()],
                1 - self.config.ema_decay,
            )
        return Move(rate, norm, applied)

    def check(self) -> None:
        """Wait for the device, and raise ValueError if more than `patience` moves in a row had gradients that were not
        finite."""
        left_out = int(self.left_out)
        if left_out > self.config.patience:
            raise ValueError(
                f"expected finite gradients, got {left_out} updates in a row without (step {self.step}): lower "
                f"the learning rate ({self.config.learning_rate}) or train in float32"
            )

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the model has its averaged weights; after it, the moving ones again, bit for bit."""
        moving = {name: value.detach().clone() for name, value in self.parameters.items()}
        self._fill(self.average)
        try:
            yield
        finally:
            self._fill(moving)

    def keep_averaged(self) -> None:
        """Leave the model with its averaged weights for good: the training is over."""
        self._fill(self.average)

    def state(self) -> dict[str, Tensor]:
        """Everything that the next update depends on, as named tensors on the CPU: weights, averaged weights, moments,
        buffers, and counters."""
        found = {"step": torch.tensor(self.step), "left_out": self.left_out}
        for name, parameter in self.parameters.items():
            found[f"weights.{name}"] = parameter.detach()
            found[f"average.{name}"] = self.average[name]
            for moment in MOMENTS:
                if parameter in self.adam.state:
                    found[f"{moment}.{name}"] = self.adam.state[parameter][moment]
        found |= {f"buffers.{name}": value for name, value in self.buffers.items()}
        return {name: value.cpu().contiguous() for name, value in found.items()}

    def load(self, state: Mapping[str, Shaped[Tensor, "..."]]) -> None:
        """Take up a state that `state` gave, copying it into place.

        Raises:
            ValueError: it is the state of another model.
        """
        for kind, what, own in (("weights", "parameters", self.parameters), ("buffers", "buffers", self.buffers)):
            got = {name.removeprefix(f"{kind}.") for name in state if name.startswith(f"{kind}.")}
            if set(own) != got:
                differing = sorted(set(own) ^ got)[:3]
                raise ValueError(f"expected the state of {len(own)} {what}, got {len(got)}; not in both: {differing}")
        self.step, self.left_out = int(state["step"]), state["left_out"].to(self.left_out.device, copy=True)
        self._fill({name: state[f"weights.{name}"] for name in self.parameters})
        _copy(self.buffers, {name: state[f"buffers.{name}"] for name in self.buffers})
        self.adam.state.clear()
        for name, parameter in self.parameters.items():
            self.average[name] = state[f"average.{name}"].to(parameter.device, copy=True)
            if f"exp_avg.{name}" in state:
                self.adam.state[parameter] = {
                    moment: state[f"{moment}.{name}"].to(parameter.device, copy=True) for moment in MOMENTS
                }

    def _fill(self, values: Mapping[str, Tensor]) -> None:
        _copy(self.parameters, values)


def _copy(into: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copy tensors into others of the same names, in place."""
    with torch.no_grad():
        for name, value in into.items():
            if value.shape != values[name].shape:
                raise ValueError(f"expected {name} of {tuple(value.shape)}, got {tuple(values[name].shape)}")
            value.copy_(values[name])
