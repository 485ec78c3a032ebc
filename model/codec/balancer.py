"""Losses brought to their shares: the gradient balancer of EnCodec (arXiv:2210.13438, 3.4).

A weight in a sum of losses says little while their gradients differ by orders of magnitude and drift. Here the gradient
of each loss with respect to the reconstruction is divided by a moving average of its own norm, so that a weight is the
share of the gradient that a loss has on average; the sum then goes on through the network in one pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from model.codec.config import BalancerConfig


@dataclass(frozen=True)
class Balanced:
    """What a step of the balancer gives."""

    gradient: Float[Tensor, "B C N"]
    """With respect to the reconstruction."""
    loss: Float[Tensor, ""]
    """The sum of the losses as they were scaled; detached."""
    shares: dict[str, Float[Tensor, ""]]
    """Each loss's averaged norm over the sum of all: its share if nothing were balanced."""


def weighted_sum(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Float[Tensor, ""]:
    """The plain sum of losses, each with its weight."""
    return torch.as_tensor(sum(weights[name] * loss for name, loss in losses.items()))


class Balancer:
    """The moving averages of the norms of some losses' gradients.

    Args:
        weights: of the losses, above 0; only their ratios count.

    Raises:
        ValueError: there are no losses, or one has no weight.
    """

    def __init__(
        self, weights: Mapping[str, float], config: BalancerConfig, device: str | torch.device = "cpu"
    ) -> None:
        if not weights or min(weights.values()) <= 0:
            raise ValueError(f"expected losses with weights above 0, got {dict(weights)}")
        self.config, self.weights = config, dict(weights)
        self.sums = torch.zeros(len(weights), dtype=torch.float64, device=device)
        self.counts = torch.zeros_like(self.sums)

    def __call__(self, losses: Mapping[str, Tensor], reconstruction: Float[Tensor, "B C N"]) -> Balanced:
        """Balance the losses of a step. Their graphs are kept, as the network's lies below them.

        A norm that is not finite leaves its average alone, though not the gradient.

        Raises:
            ValueError: other losses than there are weights.
        """
        if losses.keys() != self.weights.keys():
            raise ValueError(f"expected the losses {sorted(self.weights)}, got {sorted(losses)}")
        names, config = list(self.weights), self.config
        gradients = [torch.autograd.grad(losses[name], reconstruction, retain_graph=True)[0] for name in names]
        averages = self._averaged(gradients)
        scales = [
            self.weights[name] / sum(self.weights.values()) * config.total_norm / (config.epsilon + average)
            for name, average in zip(names, averages, strict=True)
        ]
        parts = [gradient * scale for gradient, scale in zip(gradients, scales, strict=True)]
        scaled = [losses[name].detach() * scale for name, scale in zip(names, scales, strict=True)]
        shares = dict(zip(names, averages / averages.sum(), strict=True))
        return Balanced(torch.stack(parts).sum(0), torch.stack(scaled).sum(), shares)

    def _averaged(self, gradients: Sequence[Tensor]) -> Float[Tensor, " losses"]:
        norms = [
            (each.flatten(1).norm(dim=1).mean() if self.config.per_item else each.norm()).double() for each in gradients
        ]
        newest = torch.stack(norms)
        good = newest.isfinite()
        # Sum and count decay alike, so that their ratio is an average from the first step on.
        self.sums = torch.where(good, self.config.decay * self.sums + newest, self.sums)
        self.counts = torch.where(good, self.config.decay * self.counts + 1, self.counts)
        return (self.sums / self.counts).to(gradients[0].dtype)

    def state(self) -> dict[str, Tensor]:
        """What the next step depends on, as named tensors on the CPU."""
        return {"sums": self.sums.cpu().clone(), "counts": self.counts.cpu().clone()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up a state that `state` gave.

        Raises:
            ValueError: it is the state of a balancer of other losses.
        """
        got = len(state["sums"]) if "sums" in state else 0
        if got != len(self.sums):
            raise ValueError(f"expected the averages of {len(self.sums)} losses, got {got}")
        self.sums, self.counts = (state[name].to(self.sums.device, copy=True) for name in ("sums", "counts"))
