"""A codec's adversary: its judges, how they learn, and what their judgement costs the codec.

Hinge losses (Lim and Ye, arXiv:1705.02894) or least squares (Mao et al., arXiv:1611.04076), and feature matching
(Larsen et al., arXiv:1512.09300; MelGAN, arXiv:1910.06711, 2.3). All are means over a kind's judges. Feature matching
is not divided by the size of the original's features, as AudioCraft does not (EnCodec, arXiv:2210.13438, 3.4, does).
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from model.codec.config import AdversarialConfig
from model.codec.discriminators import Discriminators, Judgement
from model.codec.precision import in_precision
from model.optim.config import OptimizationConfig
from model.optim.train_state import TrainState

Loss = Literal["hinge", "mse", "hinge2"]
"""Kinds of adversarial loss; they are AudioCraft's."""


def originality(logits: Tensor, loss: Loss) -> Float[Tensor, ""]:
    """What it costs the codec that a judge sees through its reconstruction: `hinge`, `mse` or `hinge2`."""
    if loss == "hinge":
        return -logits.mean()
    return F.relu(1 - logits).mean() if loss == "hinge2" else (logits - 1).square().mean()


def discrimination(made: Tensor, true: Tensor, loss: Loss) -> Float[Tensor, ""]:
    """What its mistakes cost a judge: logits of reconstructions, to be low, and of originals, to be high."""
    if loss == "mse":
        return made.square().mean() + (true - 1).square().mean()
    return F.relu(1 + made).mean() + F.relu(1 - true).mean()


def feature_distance(made: Sequence[Tensor], true: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Mean over layers of the L1 distance of their feature maps."""
    return torch.stack([F.l1_loss(one.float(), other.float()) for one, other in zip(made, true, strict=True)]).mean()


class Adversary:
    """The judges of a training, which learn in their turn.

    Args:
        channels: C of the sound.
        optimization: how the codec moves; the judges move alike, at a learning rate of their own.
        seed: of the judges' first weights.
    """

    def __init__(
        self,
        channels: int,
        config: AdversarialConfig,
        optimization: OptimizationConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        self.config, self.precision = config, optimization.precision
        self.discriminators = Discriminators(channels, config, seed).to(device).train()
        # Nobody keeps the judges, so their weights are not averaged.
        changes = {"learning_rate": config.learning_rate, "ema_interval": optimization.steps + 1}
        self.train_state = TrainState(self.discriminators, optimization.model_copy(update=changes))

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each of `losses`; one of 0 is not among them."""
        own = {"adversarial": self.config.weight, "features": self.config.feature_weight}
        kinds = list(self.discriminators.kinds)
        return {f"{name}_{kind}": weight for name, weight in own.items() for kind in kinds if weight > 0}

    def learn(self, reconstruction: Float[Tensor, "B C N"], original: Float[Tensor, "B C N"]) -> Float[Tensor, ""]:
        """Train the judges by one step, and give their loss before it, the mean over kinds."""
        with in_precision(original.device, self.precision):
            made, true = self.discriminators(reconstruction.detach()), self.discriminators(original)
        losses = torch.stack([self._discrimination(made[kind], true[kind]) for kind in made])
        losses.sum().backward()
        self.train_state.step_and_check()
        return losses.detach().mean()

    def losses(
        self, reconstruction: Float[Tensor, "B C N"], original: Float[Tensor, "B C N"]
    ) -> dict[str, Float[Tensor, ""]]:
        """What the judgement costs the codec (`adversarial_spectrogram`, `features_spectrogram` …); the judges get no
        gradient from it."""
        self.discriminators.requires_grad_(False)
        try:
            with in_precision(original.device, self.precision):
                made = self.discriminators(reconstruction)
                with torch.no_grad():
                    true = self.discriminators(original)
        finally:
            self.discriminators.requires_grad_(True)
        found = {}
        for kind in made:
            logits = [one.logits.float() for one in made[kind]]
            found[f"adversarial_{kind}"] = _mean([originality(each, self.config.loss) for each in logits])
            pairs = zip(made[kind], true[kind], strict=True)
            found[f"features_{kind}"] = _mean([feature_distance(one.features, other.features) for one, other in pairs])
        return {name: found[name] for name in self.weights}

    def state(self) -> dict[str, Tensor]:
        """What the next step depends on, as named tensors on the CPU."""
        return self.train_state.state()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up a state that `state` gave.

        Raises:
            ValueError: it is the state of other judges.
        """
        self.train_state.load(state)

    def _discrimination(self, made: Sequence[Judgement], true: Sequence[Judgement]) -> Tensor:
        pairs = zip(made, true, strict=True)
        return _mean([discrimination(a.logits.float(), b.logits.float(), self.config.loss) for a, b in pairs])


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()
