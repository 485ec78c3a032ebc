"""Positions of the steps of a sequence: sinusoids, rotations or both.

Sinusoids are added to the inputs (arXiv:1706.03762, 3.5). Rotations turn queries and keys, so that their product
depends only on their distance (RoFormer, arXiv:2104.09864, 3.2). With xPos this product also fades with distance
(arXiv:2212.10554, 3.2).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from model.lm.config import LanguageModelConfig

XPOS_SMOOTHING = 0.4
"""γ of xPos: the larger it is, the less the fastest rotations fade (arXiv:2212.10554, 3.2)."""
XPOS_STEPS = 512
"""Number of steps in which xPos fades a pair by its rate of `xpos_decay_rates` (AudioCraft: `base_scale`)."""


def position_table(length: int, width: int, period: float, device: torch.device) -> Float[Tensor, "{length} {width}"]:
    """Return sinusoids: cosines in the first half of the width, sines in the second (arXiv:1706.03762, 3.5)."""
    half = width // 2
    frequencies = period ** (torch.arange(half, device=device, dtype=torch.float32) / (half - 1))
    phase = torch.arange(length, device=device, dtype=torch.float32)[:, None] / frequencies
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


def rotation_frequencies(head_width: int, period: float, device: torch.device) -> Float[Tensor, "pairs"]:
    """Return the angle by which each pair of coordinates turns from one step to the next (arXiv:2104.09864, eq. 15)."""
    return 1 / period ** (torch.arange(0, head_width, 2, device=device, dtype=torch.float32) / head_width)


def xpos_decay_rates(head_width: int, device: torch.device) -> Float[Tensor, "pairs"]:
    """Return the factor by which each pair's product fades in `XPOS_STEPS` steps (arXiv:2212.10554, 3.2)."""
    pairs = head_width // 2
    share = torch.arange(pairs, device=device, dtype=torch.float32) / pairs
    return (share + XPOS_SMOOTHING) / (1 + XPOS_SMOOTHING)


def _rotate(heads: Float[Tensor, "B H S E"], factors: Float[Tensor, "2 *steps pairs"]) -> Float[Tensor, "B H S E"]:
    """Multiply each pair of neighbouring coordinates, as a complex number, by the factor of its step, in float32."""
    real, imaginary = heads.float().unflatten(-1, (-1, 2)).unbind(-1)
    rotated = (real * factors[0] - imaginary * factors[1], real * factors[1] + imaginary * factors[0])
    return torch.stack(rotated, dim=-1).flatten(-2).to(heads.dtype)


@dataclass(frozen=True, eq=False)
class Rotation:
    """Complex factors (real parts, then imaginary parts) of queries and of keys, for each step and pair.

    Where `steps` is [B, 1, S], each row has factors of its own.
    """

    queries: Float[Tensor, "2 *steps pairs"]
    keys: Float[Tensor, "2 *steps pairs"]

    def of_queries(self, heads: Float[Tensor, "B H S E"]) -> Float[Tensor, "B H S E"]:
        """Return the rotated queries."""
        return _rotate(heads, self.queries)

    def of_keys(self, heads: Float[Tensor, "B H S E"]) -> Float[Tensor, "B H S E"]:
        """Return the rotated keys. With xPos, keys grow as much as queries fade, so that only distance matters."""
        return _rotate(heads, self.keys)


def rotation(length: int, head_width: int, config: LanguageModelConfig, device: torch.device) -> Rotation:
    """Return the factors of the first `length` steps."""
    steps = torch.arange(length, device=device, dtype=torch.float32)[:, None]
    angles = steps * rotation_frequencies(head_width, config.position_period, device)
    unit = torch.stack([angles.cos(), angles.sin()])
    fade = xpos_decay_rates(head_width, device) ** (steps / XPOS_STEPS) if config.xpos else torch.ones_like(angles)
    # A scale below 1 mixes the rotation with no rotation, as AudioCraft's `positional_scale` does.
    still = (1 - config.position_scale) * torch.tensor([1.0, 0.0], device=device)[:, None, None]
    return Rotation(unit * fade * config.position_scale + still, unit / fade * config.position_scale + still)


@dataclass(frozen=True, eq=False)
class Positions:
    """Sinusoids and rotations of the steps of a sequence; None for what the model's configuration does not use."""

    sinusoids: Float[Tensor, "*steps D"] | None
    rotation: Rotation | None

    def between(self, start: int, stop: int) -> "Positions":
        """Return the positions of the steps from `start` to before `stop`."""
        sinusoids, rotation = self.sinusoids, self.rotation
        return Positions(
            None if sinusoids is None else sinusoids[start:stop],
            None if rotation is None else Rotation(rotation.queries[:, start:stop], rotation.keys[:, start:stop]),
        )

    def at(self, steps: Int[Tensor, "B"]) -> "Positions":
        """Return the position of one step for each row: sinusoids [B, 1, D], factors [2, B, 1, 1, pairs]."""
        sinusoids, rotation = self.sinusoids, self.rotation
        return Positions(
            None if sinusoids is None else sinusoids[steps][:, None],
            None
            if rotation is None
            else Rotation(*(factors[:, steps][:, :, None, None] for factors in (rotation.queries, rotation.keys))),
        )


def positions(length: int, config: LanguageModelConfig, device: torch.device) -> Positions:
    """Return the positions of a sequence of `length` steps, prefixes included."""
    sinusoids = None
    if config.positions in ("sinusoidal", "both"):
        sinusoids = config.position_scale * position_table(length, config.width, config.position_period, device)
    rotary = None
    if config.positions in ("rotary", "both"):
        rotary = rotation(length, config.width // config.heads, config, device)
    return Positions(sinusoids, rotary)
