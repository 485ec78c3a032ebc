"""Keys or values as a cache holds them: in the precision that a model computes in, or in less.

When many clips are decoded at once, most of the memory that a step reads is keys and values, so that half the bytes
take nearly half the time on a GPU. `bfloat16` rounds each number to eight bits of precision. `int8` stores the vector
of a head and position as whole numbers from -127 to 127 with one scale (as `model.kernels.linear` does for weights and
activations). In both cases attention computes with the rounded numbers, in the model's own precision.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from model.lm.config import CachePrecision

LARGEST = 127
"""The largest stored whole number of 8 bits; the smallest is its negative."""


@dataclass(frozen=True, eq=False)
class CachedVectors:
    """Vectors [B, G, S, E] of rows, heads and positions."""

    numbers: Shaped[Tensor, "B G S E"]
    scales: Float[Tensor, "B G S"] | None
    """Factors of the whole numbers; None where `numbers` are the vectors themselves."""
    dtype: torch.dtype
    """The precision in which vectors are written and read."""

    @classmethod
    def empty(
        cls, shape: tuple[int, int, int, int], precision: CachePrecision, dtype: torch.dtype, device: torch.device
    ) -> "CachedVectors":
        """Return a cache of zeros.

        Args:
            shape: B, G, S, E.
            dtype: the precision that the model computes in; the precision `float32` stores vectors in it unchanged.
        """
        kept = {"float32": dtype, "bfloat16": torch.bfloat16, "int8": torch.int8}[precision]
        scales = torch.zeros(shape[:3], device=device) if precision == "int8" else None
        return cls(torch.zeros(shape, dtype=kept, device=device), scales, dtype)

    @property
    def length(self) -> int:
        """S, the number of positions that there is room for."""
        return self.numbers.shape[2]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.numbers.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def view(self, rows: slice = slice(None), positions: slice = slice(None)) -> "CachedVectors":
        """Return a view of some rows and positions: writes to the view change this cache."""
        scales = None if self.scales is None else self.scales[rows, :, positions]
        return CachedVectors(self.numbers[rows, :, positions], scales, self.dtype)

    def write(self, vectors: Float[Tensor, "*where E"], where: Any = (slice(None), slice(None), slice(None))) -> None:
        """Write vectors to the places that `where`, an index into the first three dimensions, selects."""
        if self.scales is None:
            self.numbers[where] = vectors.to(self.numbers.dtype)
            return
        single = vectors.float()
        scales = (single.abs().amax(-1) / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
        self.numbers[where] = (single / scales[..., None]).round().to(torch.int8)
        self.scales[where] = scales

    def read(self) -> Float[Tensor, "B G S E"]:
        """Return the vectors: a copy only where they are stored in less than the model's precision."""
        vectors = self.numbers.to(self.dtype)
        return vectors if self.scales is None else vectors * self.scales[..., None].to(self.dtype)

    def lengthened(self, length: int) -> "CachedVectors":
        """Return a copy with room for `length` positions."""
        more = length - self.length
        scales = None if self.scales is None else F.pad(self.scales, (0, more))
        return CachedVectors(F.pad(self.numbers, (0, 0, 0, more)), scales, self.dtype)
