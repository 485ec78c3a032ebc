"""Teaching a small separator to take stems out of a mix (Demucs: Défossez et al., arXiv:1911.13254; HTDemucs: Rouard et
al., arXiv:2211.08553), as a stand-in for the published weights where these cannot be had.

The network is handed in; it maps mixes [B, C, N] to sources [B, stems, C, N]."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.optim.config import SeparationConfig
from model.optim.train_state import TrainState, step_seed


def train_separator(
    network: nn.Module,
    pieces: Sequence[Float[Tensor, "stems _"]],
    sample_rate: int,
    config: SeparationConfig,
    seed: int,
    on_step: Callable[[int, float], None],
) -> None:
    """Train `network` in place by the mean absolute error of all stems (arXiv:1911.13254, 4.3) and leave it with its
    averaged weights, in evaluation mode.

    Args:
        network: mixes [B, 1, n] to sources [B, stems, 1, n].
        pieces: the stems of each piece, mono; their sum is the mix.
        sample_rate: Hz.
        seed: which excerpts are drawn; the draw of a step is a function of seed and step.
        on_step: told of each step and its loss; may raise to stop.

    Raises:
        ValueError: a piece is shorter than an excerpt, or there is none.
    """
    length = round(config.segment_seconds * sample_rate)
    if not pieces or min(piece.shape[1] for piece in pieces) < length:
        shortest = min((piece.shape[1] / sample_rate for piece in pieces), default=0)
        raise ValueError(f"expected pieces of at least {config.segment_seconds:g} s, got {shortest:g} s")
    train_state = TrainState(network, config.optimization)
    device = next(network.parameters()).device
    network.train()
    for step in range(config.optimization.steps):
        generator = torch.Generator().manual_seed(step_seed(seed, step))
        stems = torch.stack([_excerpt(pieces, length, generator) for _ in range(config.batch_size)]).to(device)
        estimates = network(stems.sum(1, keepdim=True))[:, :, 0]
        loss = (estimates - stems).abs().mean()
        loss.backward()
        train_state.step_and_check()
        on_step(step, float(loss.detach()))
    train_state.keep_averaged()
    network.eval()


def _excerpt(
    pieces: Sequence[Float[Tensor, "stems _"]], length: int, generator: torch.Generator
) -> Float[Tensor, "stems n"]:
    piece = pieces[int(torch.randint(len(pieces), (1,), generator=generator))]
    start = int(torch.randint(piece.shape[1] - length + 1, (1,), generator=generator))
    return piece[:, start : start + length]


def scale_invariant_sdr(
    estimate: Float[Tensor, "*batch N"], target: Float[Tensor, "*batch N"]
) -> Float[Tensor, "*batch"]:
    """How far the target stands above everything else in an estimate, dB, whatever the gain (Le Roux et al.,
    arXiv:1811.02508, eq. 5)."""
    gain = (estimate * target).sum(-1, keepdim=True) / target.square().sum(-1, keepdim=True).clamp(min=1e-12)
    wanted = gain * target
    rest = (wanted - estimate).square().sum(-1).clamp(min=1e-12)
    return 10 * torch.log10(wanted.square().sum(-1).clamp(min=1e-12) / rest)
