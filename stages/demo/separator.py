"""A small HTDemucs (arXiv:2211.08553) that learns the stems of synthesised pieces, as a Demucs repository."""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from demucs.htdemucs import HTDemucs
from demucs.states import get_state, save_with_checksum
from torch.nn import functional

from model.optim.train_state import step_seed
from schemas.weights import LocalWeights
from stages.demo.config import SeparatorConfig
from stages.demo.music import TrainingMusic
from stages.demo.separation import scale_invariant_sdr, train_separator
from stages.demo.synthesis.rendering import STEMS
from stages.networks.demucs import MELODY_STEMS, load_separator, melody_chroma

SIGNATURE, BAG = "stems", "segue"
"""What the network and the bag with it alone in it are called in the repository. Demucs looks for networks first, so
two equal names would give the bare network."""


def new_separator(config: SeparatorConfig, sample_rate: int, seed: int) -> HTDemucs:
    """The network with its initial weights: mono in, the four stems out."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HTDemucs(
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


def train(
    config: SeparatorConfig, music: TrainingMusic, seed: int, device: str, on_step: Callable[[int, float], None]
) -> HTDemucs:
    """A separator that learned from the music's training part."""
    network = new_separator(config, music.sample_rate, step_seed(seed, 0)).to(device)
    stems = music.stems[music.learned]
    train_separator(network, stems, music.sample_rate, config.training, step_seed(seed, 1), on_step)
    return network.cpu()


def save(network: HTDemucs, folder: Path) -> None:
    """Write a repository that Demucs reads: the weights, named by their digest, and the bag that names them."""
    arguments, named = cast(tuple[tuple, dict[str, Any]], network._init_args_kwargs)  # kept by Demucs' own decorator
    package: dict[str, Any] = {"klass": HTDemucs, "args": arguments, "kwargs": named, "training_args": {}}
    save_with_checksum(package | {"state": get_state(network, None)}, folder / f"{SIGNATURE}.th")
    (folder / f"{BAG}.yaml").write_text(yaml.safe_dump({"models": [SIGNATURE]}), encoding="utf-8")


def evaluate_separator(folder: Path, music: TrainingMusic, device: str) -> dict[str, float]:
    """What the saved separator does for the melody on held-out pieces, next to doing nothing: the signal-to-distortion
    ratio of vocals and other, dB, and how near the chroma is to that of the true stems (mean cosine)."""
    separator = load_separator(LocalWeights(SIGNATURE, folder, ""), device)
    found: dict[str, list[float]] = {
        name: [] for name in ("si_sdr", "si_sdr_mix", "chroma_cosine", "chroma_cosine_mix")
    }
    for stems in music.stems[music.evaluated]:
        mix = stems.sum(0, keepdim=True)
        target = sum(stems[STEMS.index(stem)] for stem in MELODY_STEMS)
        assert isinstance(target, torch.Tensor)
        estimate = torch.from_numpy(separator.melody(mix.numpy(), music.sample_rate)[0])
        wanted = torch.from_numpy(melody_chroma(target[None].numpy(), music.sample_rate, None))
        for suffix, sound in (("", estimate), ("_mix", mix[0])):
            heard = torch.from_numpy(melody_chroma(sound[None].numpy(), music.sample_rate, None))
            found[f"si_sdr{suffix}"].append(float(scale_invariant_sdr(sound, target)))
            found[f"chroma_cosine{suffix}"].append(float(functional.cosine_similarity(heard, wanted, dim=-1).mean()))
    return {name: statistics.fmean(values) for name, values in found.items()}
