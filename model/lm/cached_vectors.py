"""Keys or values as a cache holds them: in the precision that a model computes in, or in less.

Of the memory that decoding many clips reads in a step most is keys and values, so half the bytes are nearly half the
time on a GPU. In `bfloat16` each number is rounded to eight bits of precision; in `int8` the vector of a head and
position is brought to whole numbers up to 127, with a scale of its own (as weights and activations are in
`model.kernels.linear`). Either way sums are those of the numbers as they are kept, in the model's own precision.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from model.lm.config import CachePrecision

LARGEST = 127
"""The largest whole number of 8 bits, with its negative."""


@dataclass(frozen=True, eq=False)
class CachedVectors:
    """Vectors [B, G, S, E] of some rows, heads and positions."""

    numbers: Shaped[Tensor, "B G S E"]
    scales: Float[Tensor, "B G S"] | None
    """What whole numbers are multiplied by; None where the numbers are the vectors."""
    dtype: torch.dtype
    """The precision in which they come and go."""

    @classmethod
    def empty(
        cls, shape: tuple[int, int, int, int], precision: CachePrecision, dtype: torch.dtype, device: torch.device
    ) -> "CachedVectors":
        """Return room for vectors, all zero.

        Args:
            shape: B, G, S, E.
            dtype: what the model computes in, which `float32` leaves as it is.
        """
        kept = {"float32": dtype, "bfloat16": torch.bfloat16, "int8": torch.int8}[precision]
        scales = torch.zeros(shape[:3], device=device) if precision == "int8" else None
        return cls(torch.zeros(shape, dtype=kept, device=device), scales, dtype)

    @property
    def length(self) -> int:
        """S, the positions that there is room for."""
        return self.numbers.shape[2]

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return self.numbers.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def view(self, rows: slice = slice(None), positions: slice = slice(None)) -> "CachedVectors":
        """View some rows and positions: what is written to the view is written here."""
        scales = None if self.scales is None else self.scales[rows, :, positions]
        return CachedVectors(self.numbers[rows, :, positions], scales, self.dtype)

    def write(self, vectors: Float[Tensor, "*where E"], where: Any = (slice(None), slice(None), slice(None))) -> None:
        """Put vectors in the places that an index of the first three dimensions names."""
        if self.scales is None:
            self.numbers[where] = vectors.to(self.numbers.dtype)
            return
        single = vectors.float()
        scales = (single.abs().amax(-1) / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
        self.numbers[where] = (single / scales[..., None]).round().to(torch.int8)
        self.scales[where] = scales

    def read(self) -> Float[Tensor, "B G S E"]:
        """Return the vectors; a copy only where they are kept in less than the model's precision."""
        vectors = self.numbers.to(self.dtype)
        return vectors if self.scales is None else vectors * self.scales[..., None].to(self.dtype)

    def lengthened(self, length: int) -> "CachedVectors":
        """Return a copy with room for `length` positions."""
        more = length - self.length
        scales = None if self.scales is None else F.pad(self.scales, (0, more))
        return CachedVectors(F.pad(self.numbers, (0, 0, 0, more)), scales, self.dtype)
