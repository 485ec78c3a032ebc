"""The music that stand-ins learn from: pieces of the same kind as the demo corpus, and none of its own."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from stages.demo.synthesis import Piece, compose
from stages.demo.synthesis.rendering import render
from stages.pipeline.contract import Context

FIRST_INDEX = 10_000
"""Pieces from this index on are never in a demo corpus."""


@dataclass(frozen=True, eq=False)
class TrainingMusic:
    """Pieces with their stems; the last of them are held out for their evaluation."""

    pieces: list[Piece]
    stems: list[Float[Tensor, "stems _"]]
    sample_rate: int
    held_out: int

    @property
    def learned(self) -> slice:
        """Of `pieces` and `stems`: what is trained on."""
        return slice(0, len(self.pieces) - self.held_out)

    @property
    def evaluated(self) -> slice:
        """Of `pieces` and `stems`: what is held out."""
        return slice(len(self.pieces) - self.held_out, len(self.pieces))


def make_music(context: Context, seed: int, count: int, held_out: int, sample_rate: int) -> TrainingMusic:
    """Compose and play `count` pieces and `held_out` more."""
    pieces = [compose(seed, FIRST_INDEX + index) for index in range(count + held_out)]
    stems = []
    context.progress.start("playing music to learn from", len(pieces), "pieces")
    for piece in pieces:
        context.check_stopped()
        stems.append(render(piece, sample_rate))
        context.progress.advance()
    return TrainingMusic(pieces, stems, sample_rate, held_out)
