"""Melody out of a recording: Demucs' stems (arXiv:2211.08553) that carry it, and their chroma (arXiv:2306.05284, 2.2).

As in AudioCraft: the separator gets the signal as it is (no normalisation), `vocals` and `other` are summed, and the
chroma is taken of their mono mix at 32 kHz. Unlike there nothing is random (`shifts=0`), and a long recording is
separated in blocks of a fixed length, each with as much of its neighbours as the network sees at once, so that memory
stays bounded."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import demucs
import numpy as np
import torch
import yaml
from demucs.apply import BagOfModels, apply_model
from demucs.demucs import Demucs
from demucs.hdemucs import HDemucs
from demucs.htdemucs import HTDemucs
from demucs.repo import ModelLoadingError, check_checksum
from demucs.states import load_model
from jaxtyping import Float
from torch import Tensor

from model.chroma import chroma
from schemas.weights import LocalWeights
from stages.audio import resample, to_mono
from stages.unpickling import load_pickle

MELODY_STEMS = ("vocals", "other")
"""The stems that carry melody; `drums` and `bass` do not (arXiv:2306.05284, 2.2)."""

OVERLAP = 0.25
"""Share of a segment that overlaps the next (Demucs' default)."""

BLOCK_SECONDS = 60.0
"""What is separated at once of a longer recording."""


@dataclass(frozen=True)
class ChromaSettings:
    """How a melody is measured: the rate to which sound is brought (Hz), window and hop (samples at that rate)."""

    sample_rate: int = 32_000
    window: int = 16_384
    hop: int = 4_096

    @property
    def frame_rate(self) -> float:
        """Frames a second: 7.8125 at MusicGen's settings."""
        return self.sample_rate / self.hop


class Separator:
    """Demucs as a function from a recording to the mono sum of the stems that carry melody."""

    def __init__(self, bag: BagOfModels, device: str) -> None:
        missing = [stem for stem in MELODY_STEMS if stem not in bag.sources]
        if missing:
            raise ValueError(f"expected a separator with the stems {', '.join(MELODY_STEMS)}, got {bag.sources}")
        self.bag, self.device = bag.eval(), device
        self.sample_rate: int = bag.samplerate
        self._context = round(float(max(getattr(model, "segment", 10) for model in bag.models)) * self.sample_rate)
        self._block = max(round(BLOCK_SECONDS * self.sample_rate), self._context)
        self._melody = [bag.sources.index(stem) for stem in MELODY_STEMS]

    def melody(self, samples: Float[np.ndarray, "C N"], sample_rate: int) -> Float[np.ndarray, "1 M"]:
        """Vocals and other of a recording as one mono signal at the separator's own `sample_rate`.

        Up to `BLOCK_SECONDS` the result is Demucs' own for the whole recording."""
        mixed = resample(samples, sample_rate, self.sample_rate)
        channels = self.bag.audio_channels
        if mixed.shape[0] != channels:
            # As AudioCraft's convert_audio: mono is doubled, and anything else goes by way of mono or its first
            # channels.
            mixed = mixed[:channels] if mixed.shape[0] > channels > 1 else np.repeat(to_mono(mixed), channels, axis=0)
        length, parts = mixed.shape[1], []
        for start in range(0, length, self._block):
            stop = min(start + self._block, length)
            left, right = max(start - self._context, 0), min(stop + self._context, length)
            found = self._separate(torch.from_numpy(mixed[:, left:right].copy()))
            parts.append(found[start - left : stop - left])
        return torch.cat(parts).numpy()[None]

    def _separate(self, mixed: Float[Tensor, "C N"]) -> Float[Tensor, " N"]:
        with torch.no_grad():
            stems = apply_model(
                self.bag, mixed[None], device=self.device, shifts=0, split=True, overlap=OVERLAP, progress=False
            )
        return stems[0, self._melody].sum(0).mean(0)


def load_separator(weights: LocalWeights, device: str = "cpu") -> Separator:
    """The separator of a folder: Demucs' local repository, that is `<signature>-<sha256>.th` files with a bag's
    `.yaml`, or a single `.th`; or the files of a model that Demucs publishes (`demucs:<name>`, whose bag comes with the
    package).

    Raises:
        ValueError: the folder is no such repository, a file is not what its name's digest says, or a file holds
        anything but
            weights of a Demucs network.
    """
    path = weights.path
    files = {file.stem.split("-")[0]: file for file in ([path] if path.is_file() else sorted(path.glob("*.th")))}
    bags = [] if path.is_file() else sorted(path.glob("*.yaml"))
    if not bags and weights.reference.startswith("demucs:"):
        bags = [Path(demucs.__file__).parent / "remote" / f"{weights.reference.removeprefix('demucs:')}.yaml"]
    if len(bags) > 1 or not files or (not bags and len(files) > 1):
        raise ValueError(
            f"expected a Demucs repository (.th files and one bag .yaml, or one .th) in {path}, got {len(files)} .th "
            f"and {len(bags)} .yaml files"
        )
    bag = yaml.safe_load(bags[0].read_text(encoding="utf-8")) if bags else {"models": list(files)}
    if not isinstance(bag, dict) or not isinstance(bag.get("models"), list):
        raise ValueError(f"expected a bag with a list `models` in {bags[0]}, got {str(bag)[:80]}")
    missing = [str(name) for name in bag["models"] if name not in files]
    if missing:
        raise ValueError(f"expected the models {', '.join(missing)} of the bag in {path}, got {', '.join(files)}")
    networks = [_load_network(files[name]) for name in bag["models"]]
    return Separator(BagOfModels(networks, bag.get("weights"), bag.get("segment")).to(device), device)


def _load_network(path: Path) -> Demucs | HDemucs | HTDemucs:
    if "-" in path.stem:
        try:
            check_checksum(path, path.stem.rsplit("-", 1)[1])
        except ModelLoadingError as error:
            raise ValueError(f"expected the file that its name's digest says, got another: {error}") from error
    package = load_pickle(path, (HTDemucs, HDemucs, Demucs, Fraction))
    if not isinstance(package, dict) or package.get("klass") not in (HTDemucs, HDemucs, Demucs):
        raise ValueError(f"expected the weights of a Demucs network in {path}, got none")
    try:
        network: Demucs | HDemucs | HTDemucs = load_model(package)
        return network
    except (KeyError, TypeError, RuntimeError, AssertionError) as error:
        raise ValueError(f"expected the weights of a Demucs network in {path}, got {error}") from error


def melody_chroma(
    samples: Float[np.ndarray, "C N"],
    sample_rate: int,
    separator: Separator | None,
    settings: ChromaSettings | None = None,
    device: str = "cpu",
) -> Float[np.ndarray, "F 12"]:
    """The melody condition of a recording: raw chroma, the strongest bin of each frame 1 (zeros where nothing sounds).

    Args:
        samples: the recording.
        sample_rate: its rate in Hz.
        separator: takes the melody out of the mix first; None measures the full mix.
        settings: how the chroma is measured; None is MusicGen's way.
        device: where the chroma is computed.

    Raises:
        ValueError: there are no samples.
    """
    settings = settings or ChromaSettings()
    if not samples.shape[1]:
        raise ValueError("expected at least 1 sample, got none")
    if separator is None:
        sound, rate = to_mono(samples), sample_rate
    else:
        sound, rate = separator.melody(samples, sample_rate), separator.sample_rate
    sound = resample(sound, rate, settings.sample_rate)
    found = chroma(torch.from_numpy(sound).to(device), settings.sample_rate, settings.window, settings.hop)
    return found[0].cpu().numpy()
