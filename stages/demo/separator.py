"""A small HTDemucs (Rouard et al., arXiv:2211.08553) that learns the stems of synthesised pieces, saved as a Demucs
repository: a stand-in for the published weights, for machines that cannot download them."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from demucs.htdemucs import HTDemucs
from demucs.states import get_state, save_with_checksum
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from model.optim.train_state import step_seed
from schemas.weights import LocalWeights
from stages.checkpoints.disk_errors import disk_errors
from stages.demo.config import SeparatorConfig, SeparatorTrainingConfig
from stages.demo.synthesis.rendering import STEMS
from stages.demo.training import OnStep, TrainingMusic, seeded, train_network
from stages.networks.demucs import MELODY_STEMS, load_separator, melody_chroma

SIGNATURE, BAG = "stems", "segue"
"""Names in the repository of the network and of the bag that has only this network. Demucs looks for networks first, so
with the same name it would load the network without the bag."""


def new_separator(config: SeparatorConfig, sample_rate: int, seed: int) -> HTDemucs:
    """Make the network with its initial weights: mono input, four stems as output."""
    with seeded(seed):
        network: HTDemucs = HTDemucs(
            sources=list(STEMS),
            audio_channels=1,
            channels=config.channels,
            nfft=config.fft,
            depth=config.depth,
            bottom_channels=config.bottom_channels,
            t_layers=config.layers,
            t_heads=config.heads,
            t_hidden_scale=2.0,
            samplerate=sample_rate,
            segment=config.training.segment_seconds,
        )
    return network


def train_separator(config: SeparatorConfig, music: TrainingMusic, seed: int, device: str, on_step: OnStep) -> HTDemucs:
    """Train a separator on the training part of the music."""
    network = new_separator(config, music.sample_rate, step_seed(seed, 0)).to(device)
    stems = music.stems[music.training]
    learn_stems(network, stems, music.sample_rate, config.training, step_seed(seed, 1), on_step)
    return network.cpu()


def learn_stems(
    network: nn.Module,
    pieces: Sequence[Float[Tensor, "stems _"]],
    sample_rate: int,
    config: SeparatorTrainingConfig,
    seed: int,
    on_step: OnStep,
) -> None:
    """Train `network` in place to minimise the mean absolute error of all stems (Défossez et al., arXiv:1911.13254,
    4.3).

    Args:
        network: maps mixes [B, 1, n] to sources [B, stems, 1, n].
        pieces: the stems of each piece, mono; their sum is the mix.
        sample_rate: Hz.
        seed: decides which excerpts are drawn.

    Raises:
        ValueError: a piece is shorter than an excerpt, or there is none.
    """
    length = round(config.segment_seconds * sample_rate)
    if not pieces or min(piece.shape[1] for piece in pieces) < length:
        shortest = min((piece.shape[1] / sample_rate for piece in pieces), default=0)
        raise ValueError(f"expected pieces of at least {config.segment_seconds:g} s, got {shortest:g} s")
    device = next(network.parameters()).device

    def draw_loss(generator: torch.Generator) -> Float[Tensor, ""]:
        stems = torch.stack([_excerpt(pieces, length, generator) for _ in range(config.batch_size)]).to(device)
        estimates = network(stems.sum(1, keepdim=True))[:, :, 0]
        loss: Tensor = (estimates - stems).abs().mean()
        return loss

    train_network(network, draw_loss, config.optimization, seed, on_step)


def _excerpt(
    pieces: Sequence[Float[Tensor, "stems _"]], length: int, generator: torch.Generator
) -> Float[Tensor, "stems n"]:
    piece = pieces[int(torch.randint(len(pieces), (1,), generator=generator))]
    start = int(torch.randint(piece.shape[1] - length + 1, (1,), generator=generator))
    return piece[:, start : start + length]


@disk_errors()
def save_separator(network: HTDemucs, folder: Path) -> None:
    """Write a repository that Demucs reads: the weights, named by their digest, and the bag that names them."""
    # Demucs' decorator keeps the arguments that the network was made with.
    arguments, named = cast(tuple[tuple[Any, ...], dict[str, Any]], network._init_args_kwargs)
    package: dict[str, Any] = {"klass": HTDemucs, "args": arguments, "kwargs": named, "training_args": {}}
    save_with_checksum(package | {"state": get_state(network, None)}, folder / f"{SIGNATURE}.th")
    (folder / f"{BAG}.yaml").write_text(yaml.safe_dump({"models": [SIGNATURE]}), encoding="utf-8")


def evaluate_separator(folder: Path, music: TrainingMusic, device: str) -> dict[str, float]:
    """Measure how well the saved separator extracts the melody of held-out pieces, compared with leaving the mix as it
    is: the signal-to-distortion ratio of vocals and other, dB, and the similarity of their chroma to that of the true
    stems (mean cosine)."""
    separator = load_separator(LocalWeights(SIGNATURE, folder, ""), device)
    measures: dict[str, list[float]] = {
        name: [] for name in ("si_sdr", "si_sdr_mix", "chroma_cosine", "chroma_cosine_mix")
    }
    for stems in music.stems[music.held_out]:
        mix = stems.sum(0, keepdim=True)
        target = sum(stems[STEMS.index(stem)] for stem in MELODY_STEMS)
        assert isinstance(target, torch.Tensor)
        estimate = torch.from_numpy(separator.melody(mix.numpy(), music.sample_rate)[0])
        wanted = torch.from_numpy(melody_chroma(target[None].numpy(), music.sample_rate, None))
        for suffix, sound in (("", estimate), ("_mix", mix[0])):
            measured = torch.from_numpy(melody_chroma(sound[None].numpy(), music.sample_rate, None))
            measures[f"si_sdr{suffix}"].append(float(scale_invariant_sdr(sound, target)))
            cosines = functional.cosine_similarity(measured, wanted, dim=-1)
            measures[f"chroma_cosine{suffix}"].append(float(cosines.mean()))
    return {name: statistics.fmean(values) for name, values in measures.items()}


def scale_invariant_sdr(
    estimate: Float[Tensor, "*batch N"], target: Float[Tensor, "*batch N"]
) -> Float[Tensor, "*batch"]:
    """Return the ratio of the target to everything else in an estimate, dB, independent of gain (Le Roux et al.,
    arXiv:1811.02508, eq. 5)."""
    gain = (estimate * target).sum(-1, keepdim=True) / target.square().sum(-1, keepdim=True).clamp(min=1e-12)
    wanted = gain * target
    rest = (wanted - estimate).square().sum(-1).clamp(min=1e-12)
    return 10 * torch.log10(wanted.square().sum(-1).clamp(min=1e-12) / rest)
