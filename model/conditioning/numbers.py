"""Metadata that is a number (tempo, length), through sines and cosines of growing pace (NeRF, arXiv:2003.08934, 5.1).

A projection alone could only be linear in the number; waves let neighbours share what is learned and still differ.
AudioCraft has no such condition; Stable Audio times music by a learned relative of it (arXiv:2402.04825, 2.2).
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.conditioning.config import NumberConfig
from model.conditioning.prepared import PreparedVectors, project
from model.lm.language_model import Condition


def waves(numbers: Float[Tensor, "B"], config: NumberConfig) -> Float[Tensor, "B E"]:
    """sin and cos of 2^k π u for k = 0 … `waves` - 1, E = 2 * `waves`, where u is the place in the range, 0 to 1.

    Numbers outside the range count as its nearer end. In double precision: the fastest wave multiplies errors.
    """
    place = (numbers.double().clamp(config.lowest, config.highest) - config.lowest) / (config.highest - config.lowest)
    angles = place[:, None] * math.pi * 2.0 ** torch.arange(config.waves, dtype=torch.float64)
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


class NumberConditioner(nn.Module):
    """Numbers through their waves and a projection, one vector each."""

    def __init__(self, config: NumberConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.projection = nn.Linear(2 * config.waves, width)

    def prepare(self, numbers: Sequence[float | int | None]) -> PreparedVectors:
        """The waves of each number, in the field's unit; None is a null. ValueError for one that is not finite."""
        for number in numbers:
            if number is not None and not math.isfinite(number):
                raise ValueError(f"expected a finite number or None, got {number}")
        mask = torch.tensor([number is not None for number in numbers])
        values = torch.tensor(
            [self.config.lowest if number is None else number for number in numbers], dtype=torch.float64
        )
        vectors = waves(values, self.config).masked_fill(~mask[:, None], 0.0)
        return PreparedVectors(vectors[:, None], mask[:, None])

    def forward(self, prepared: PreparedVectors) -> Condition:
        """Vectors [B, 1, D]."""
        return project(self.projection, prepared.vectors, prepared.mask)
