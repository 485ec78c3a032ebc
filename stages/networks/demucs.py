"""The melody of a recording: Demucs' stems (arXiv:2211.08553) that carry it, and their chroma (arXiv:2306.05284, 2.2).

As in AudioCraft, the separator gets the signal without normalisation, `vocals` and `other` are summed, and the chroma
is computed from their mono mix at 32 kHz. Unlike in AudioCraft nothing is random (`shifts=0`). Segments are joined as
`demucs.apply.apply_model` joins them. That function keeps four stems of the whole recording and processes segments one
by one; here only the melody is kept, and an accelerator gets several segments of a recording at once.
"""

from collections.abc import Iterator
from fractions import Fraction
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import demucs
import numpy as np
import numpy.typing as npt
import torch
import yaml
from demucs.apply import BagOfModels, TensorChunk
from demucs.demucs import Demucs
from demucs.hdemucs import HDemucs
from demucs.htdemucs import HTDemucs
from demucs.repo import ModelLoadingError, check_checksum
from demucs.states import load_model
from demucs.utils import center_trim
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from model.chroma import chroma
from model.conditioning.config import ChromaConfig
from schemas import WeightsRef
from schemas.weights import LocalWeights
from stages.audio import Samples, convert_audio, resample, to_mono
from stages.networks.loading import load_pickle

MELODY_STEMS = ("vocals", "other")
"""The stems that carry melody; `drums` and `bass` do not (arXiv:2306.05284, 2.2)."""

OVERLAP = 0.25
"""Share of a segment that overlaps the next (Demucs' default)."""

SEGMENTS_AT_ONCE = 8
"""Segments of a recording in one pass on an accelerator. On a CPU one segment at a time is as fast, and needs less
memory."""

AnyDemucs = Demucs | HDemucs | HTDemucs


class Separator:
    """Demucs as a function from a recording to the mono sum of the stems that carry melody.

    Args:
        bag: networks whose estimates are averaged, each stem by the bag's weights.
        segments_at_once: segments of a recording in one pass; None takes what suits the device.

    Raises:
        ValueError: the networks do not have these stems.
    """

    def __init__(self, bag: BagOfModels, device: str, segments_at_once: int | None = None) -> None:
        missing = [stem for stem in MELODY_STEMS if stem not in bag.sources]
        if missing:
            raise ValueError(f"expected a separator with the stems {', '.join(MELODY_STEMS)}, got {bag.sources}")
        self.bag, self.device = bag.eval().to(device), device
        self._networks: list[Any] = list(bag.models)
        self.sample_rate: int = bag.samplerate
        self.channels: int = bag.audio_channels
        self._at_once = segments_at_once or (1 if device == "cpu" else SEGMENTS_AT_ONCE)
        self._melody = [bag.sources.index(stem) for stem in MELODY_STEMS]
        totals = [sum(weights) for weights in zip(*bag.weights, strict=True)]
        self._shares = [[weights[stem] / totals[stem] for stem in self._melody] for weights in bag.weights]

    def melody(self, samples: Float[Samples, "C N"], sample_rate: int) -> Float[Samples, "1 M"]:
        """Return the sum of the stems `vocals` and `other` of a recording, as a mono signal at the separator's own
        `sample_rate`.

        The result is Demucs' own for the whole recording, however long. Besides the recording it takes memory for a few
        segments only.
        """
        mixed = torch.from_numpy(convert_audio(samples, sample_rate, self.sample_rate, self.channels))
        melody = torch.zeros(mixed.shape[1])
        with torch.no_grad():
            for network, shares in zip(self._networks, self._shares, strict=True):
                if any(shares):  # in a fine-tuned bag each network gives one stem, and two give the melody
                    melody += torch.cat(list(self._overlap_add(network, shares, mixed))).cpu()
        return melody.numpy()[None]

    def _overlap_add(self, network: Any, shares: list[float], mixed: Float[Tensor, "C N"]) -> Iterator[Tensor]:
        """Estimate the melody with one network, and yield it stretch by stretch. Segments overlap; a segment's weight
        at a sample grows with the sample's distance from the segment's ends."""
        length = int(network.segment * self.sample_rate)
        stride = int((1 - OVERLAP) * length)
        rising = torch.arange(1, length // 2 + 1)
        weight = torch.cat([rising, torch.arange(length - length // 2, 0, -1)]).to(self.device)
        weight = weight / weight.max()
        each = torch.tensor(shares, device=self.device)[:, None, None]
        sums = torch.zeros(len(shares), mixed.shape[0], length, device=self.device)
        weights = torch.zeros(length, device=self.device)
        for stems in self._segments(network, mixed, length, stride):
            count = stems.shape[-1]
            sums[..., :count] += weight[:count] * stems
            weights[:count] += weight[:count]
            # No later segment reaches samples before the beginning of the next segment.
            done = min(stride, count)
            yield (each * (sums[..., :done] / weights[:done])).sum(0).mean(0)
            sums = functional.pad(sums[..., stride:], (0, stride))
            weights = functional.pad(weights[stride:], (0, stride))

    def _segments(
        self, network: Any, mixed: Float[Tensor, "C N"], length: int, stride: int
    ) -> Iterator[Float[Tensor, "S C n"]]:
        """Yield the stems of segments of `length` samples, `stride` samples apart; the last segments are shorter.
        Segments are padded with the surrounding sound to a length that the network accepts."""
        chunks = (TensorChunk(mixed, start, length) for start in range(0, mixed.shape[1], stride))
        for count, equal in groupby(chunks, key=lambda chunk: chunk.length):
            padded = network.valid_length(count) if hasattr(network, "valid_length") else count
            while group := list(islice(equal, self._at_once)):
                batch = torch.stack([chunk.padded(padded) for chunk in group]).to(self.device)
                yield from center_trim(network(batch)[:, self._melody], count)


def load_separator(weights: LocalWeights, device: str = "cpu") -> Separator:
    """Load the separator in a folder.

    It is Demucs' local repository: `<signature>-<sha256>.th` files with a bag's `.yaml`, or a single `.th`. Or it has
    the files of a model that Demucs publishes (`demucs:<name>`), whose bag is in the package.

    Raises:
        ValueError: the folder is no such repository, a file does not have the digest in its name, or a file holds
            anything but weights of a Demucs network.
    """
    path = weights.path
    files = {file.stem.split("-")[0]: file for file in ([path] if path.is_file() else sorted(path.glob("*.th")))}
    bags = [] if path.is_file() else sorted(path.glob("*.yaml"))
    if not bags and (published := WeightsRef(weights.reference).demucs):
        bags = [Path(demucs.__file__).parent / "remote" / f"{published}.yaml"]
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
    return Separator(BagOfModels(networks, bag.get("weights"), bag.get("segment")), device)


def _load_network(path: Path) -> AnyDemucs:
    if "-" in path.stem:
        try:
            check_checksum(path, path.stem.rsplit("-", 1)[1])
        except ModelLoadingError as error:
            raise ValueError(f"expected a file that matches the digest in its name, got another: {error}") from error
    package = load_pickle(path, (HTDemucs, HDemucs, Demucs, Fraction))
    if not isinstance(package, dict) or package.get("klass") not in (HTDemucs, HDemucs, Demucs):
        raise ValueError(f"expected the weights of a Demucs network in {path}, got none")
    try:
        network: AnyDemucs = load_model(package)
        return network
    except (KeyError, TypeError, RuntimeError, AssertionError) as error:
        raise ValueError(f"expected the weights of a Demucs network in {path}, got {error}") from error


def melody_chroma(
    samples: Float[Samples, "C N"],
    sample_rate: int,
    separator: Separator | None,
    config: ChromaConfig = ChromaConfig(),
    device: str = "cpu",
) -> Float[npt.NDArray[np.float32], "F 12"]:
    """Measure the melody condition of a recording: raw chroma, with 1 in the strongest bin of each frame (zeros in
    silence).

    Args:
        samples: the recording.
        sample_rate: its sample rate, Hz.
        separator: takes the melody out of the mix first; None measures the full mix.
        config: how the chroma is measured.
        device: where the chroma is computed.

    Raises:
        ValueError: there are no samples.
    """
    if not samples.shape[1]:
        raise ValueError("expected at least 1 sample, got none")
    if separator is None:
        sound, rate = to_mono(samples), sample_rate
    else:
        sound, rate = separator.melody(samples, sample_rate), separator.sample_rate
    sound = resample(sound, rate, config.sample_rate)
    return chroma(torch.from_numpy(sound).to(device), config)[0].cpu().numpy()
