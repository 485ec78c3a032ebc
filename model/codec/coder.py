"""The protocol between this project and a neural codec: its sizes, and one pass there and one back.

EnCodec, DAC and Mimi differ in their networks, in how they quantise and in how far they look; windows over long
recordings, stereo by a mono codec, identities and files are written once, over a `Coder`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor
from transformers import DacModel, EncodecModel, MimiModel

CodecNetwork = EncodecModel | DacModel | MimiModel
"""The networks of transformers that can be a codec here."""


@dataclass(frozen=True)
class Margins:
    """Frames that a codec has to see around a frame for its codes and its sound to be those of one long pass."""

    before: int
    after: int


@dataclass(frozen=True, eq=False)
class Coder:
    """A codec of any kind, for sound of N samples and codes of T = ceil(N / hop) frames."""

    kind: str
    """For a person to read."""
    sample_rate: int
    """Hz."""
    channels: int
    """C."""
    hop: int
    """Samples a frame."""
    codebooks: int
    """Levels that the network has; the first ones alone are a coarser code."""
    cardinality: int
    """V, codes of a codebook."""
    margins: Margins
    """What a window needs on either side of what is kept of it."""
    codebook: Callable[[int], Float[Tensor, "V E"]]
    """The table of a level, which says what its codes mean."""
    encode: Callable[[Float[Tensor, "B C N"], int], Int[Tensor, "B K T"]]
    """Codes of waveforms in so many levels."""
    decode: Callable[[Int[Tensor, "B K T"]], Float[Tensor, "B C N"]]
    """Waveforms of codes in any number of levels, N = T * hop."""
    prepare: Callable[[], None]
    """Make the network ready for inference, in place, where it lies now."""
    obstacle: str | None = None
    """Why its codes alone are not the sound; None where they are."""

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sample_rate / self.hop
