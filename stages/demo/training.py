"""What the stand-ins learn from, and how: pieces of the same kind as the demo corpus but not in it, and the training
loop."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.optim.config import OptimizationConfig
from model.optim.train_state import TrainState, step_seed
from stages.demo.synthesis import Piece, compose
from stages.demo.synthesis.rendering import render
from stages.pipeline.contract import Context

FIRST_INDEX = 10_000
"""Pieces from this index on are never in a demo corpus."""

OnStep = Callable[[int, float], None]
"""Called after each step with its number and loss; may raise an exception to stop."""


_DRAWING = Lock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Make initial weights that are drawn inside follow from a seed. They come from torch's global generator, which all
    threads share, so only one thread at a time may be inside."""
    with _DRAWING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@dataclass(frozen=True, eq=False)
class TrainingMusic:
    """Pieces with their stems; the last of them are held out for evaluation."""

    pieces: list[Piece]
    stems: list[Float[Tensor, "stems _"]]
    sample_rate: int
    held_out_pieces: int

    @property
    def training(self) -> slice:
        """The part of `pieces` and `stems` that is trained on."""
        return slice(0, len(self.pieces) - self.held_out_pieces)

    @property
    def held_out(self) -> slice:
        """The part of `pieces` and `stems` that is held out."""
        return slice(len(self.pieces) - self.held_out_pieces, len(self.pieces))


def make_music(context: Context, seed: int, pieces: int, held_out_pieces: int, sample_rate: int) -> TrainingMusic:
    """Compose and play `pieces` pieces to learn from, and `held_out_pieces` more."""
    composed = [compose(seed, FIRST_INDEX + index) for index in range(pieces + held_out_pieces)]
    stems = []
    context.progress.start("playing music to learn from", len(composed), "pieces")
    for piece in composed:
        context.check_stopped()
        stems.append(render(piece, sample_rate))
        context.progress.advance()
    return TrainingMusic(composed, stems, sample_rate, held_out_pieces)


def train_network(
    network: nn.Module,
    draw_loss: Callable[[torch.Generator], Float[Tensor, ""]],
    config: OptimizationConfig,
    seed: int,
    on_step: OnStep,
) -> None:
    """Train a network in place, and leave it with its averaged weights and in evaluation mode.

    Args:
        draw_loss: draws a batch with a generator on the CPU, and returns its loss.
        seed: what is drawn in a step follows from the seed and the number of the step.

    Raises:
        ValueError: gradients do not stay finite.
    """
    train_state = TrainState(network, config)
    network.train()
    for step in range(config.steps):
        loss = draw_loss(torch.Generator().manual_seed(step_seed(seed, step)))
        loss.backward()
        train_state.step_and_check()
        on_step(step, float(loss.detach()))
    train_state.keep_averaged()
    network.eval()
