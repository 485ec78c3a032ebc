"""What conditioners have in common: a batch as the host prepares it, and its way through a projection.

Each conditioner works in two parts: `prepare` on the host (tokenising, stacking) and `forward` on the device. What is
absent (a null, or what pads a short row) is vectors of zeros outside the mask. A batch goes to the device without
waiting for it; from page-locked (`pinned`) memory the device copies it by itself.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from model.lm.language_model import Condition


@dataclass(frozen=True, eq=False)
class PreparedTokens:
    """Token ids, and which of them belong to a text."""

    tokens: Int[Tensor, "B L"]
    mask: Bool[Tensor, "B L"]

    def to(self, device: torch.device) -> "PreparedTokens":
        return PreparedTokens(self.tokens.to(device, non_blocking=True), self.mask.to(device, non_blocking=True))

    def pinned(self) -> "PreparedTokens":
        return PreparedTokens(self.tokens.pin_memory(), self.mask.pin_memory())


@dataclass(frozen=True, eq=False)
class PreparedVectors:
    """Stacked vectors, and which of them are there; the others are zeros."""

    vectors: Float[Tensor, "B L E"]
    mask: Bool[Tensor, "B L"]

    def to(self, device: torch.device) -> "PreparedVectors":
        return PreparedVectors(self.vectors.to(device, non_blocking=True), self.mask.to(device, non_blocking=True))

    def pinned(self) -> "PreparedVectors":
        return PreparedVectors(self.vectors.pin_memory(), self.mask.pin_memory())


def project(projection: nn.Linear, vectors: Float[Tensor, "B L E"], mask: Bool[Tensor, "B L"]) -> Condition:
    """Bring vectors to the decoder's width, and make those outside the mask zeros (the bias would show there)."""
    embedding = projection(vectors.to(projection.weight.dtype))
    return Condition(embedding.masked_fill(~mask[..., None], 0.0), mask)
