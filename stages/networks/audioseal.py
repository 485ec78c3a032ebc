"""AudioSeal: a watermark that one network adds to a sound and another detects (arXiv:2401.17264), loaded from its
files.

The package `audioseal` has the networks, but reads its files with an unpickler that runs the functions that they name.
Here they are read by the restricted unpickler. Besides tensors the files hold their configuration in OmegaConf's plain
containers, which are allowed. The published files are `generator_base.pth` and `detector_base.pth` of
facebook/audioseal.

Both networks take one channel at 16 kHz. A sound at another rate is resampled for them. The generator's mark is
resampled back and added to every channel, so that nothing else of the sound changes and the mean of the channels
carries the mark. Long sounds are processed in windows of equal length; the marks of neighbouring windows cross-fade.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor, nn

from stages.audio import Samples, resample, to_mono
from stages.networks.loading import load_pickle

SAMPLE_RATE = 16_000
"""Sample rate that the published networks were trained at, Hz (arXiv:2401.17264, 4.1)."""

WINDOW = 10 * SAMPLE_RATE
"""Approximate length of a window, samples."""

FADE = SAMPLE_RATE // 2
"""Samples over which the marks of two windows cross-fade."""

FOUND = 0.5
"""A sound counts as marked if the detector takes more than this share of its samples for marked."""

CARDS = {"generator": "audioseal_wm_16bits", "detector": "audioseal_detector_16bits"}
"""The package's names of the published networks' configurations, for files that have none."""

INSTALL = "pip install 'segue[watermark]'"


@dataclass(frozen=True)
class Detection:
    """What a detector found in a sound."""

    score: float
    """Share of the samples that it takes for marked, 0 to 1."""
    bits: npt.NDArray[np.bool_]
    """The bits of the message, first bit first; noise where nothing is marked."""

    @property
    def found(self) -> bool:
        return self.score > FOUND

    @property
    def message(self) -> int:
        return int("".join(str(int(bit)) for bit in self.bits), 2)

    def bits_right(self, message: int) -> int:
        """Count the bits that agree with a message."""
        return int((self.bits == message_bits(message, len(self.bits))).sum())


def message_bits(message: int, bits: int) -> npt.NDArray[np.bool_]:
    """Return a message as bits, first bit first.

    Raises:
        ValueError: the message does not fit into `bits` bits.
    """
    if not 0 <= message < 2**bits:
        raise ValueError(f"expected a message of {bits} bits, got {message}")
    return np.array([bool(message >> (bits - 1 - bit) & 1) for bit in range(bits)])


@dataclass(frozen=True, eq=False)
class WatermarkGenerator:
    """Makes the mark for a sound."""

    network: Any
    message: int
    strength: float
    device: str

    def mark(self, samples: Float[Samples, "C N"], sample_rate: int) -> Float[Samples, "1 N"]:
        """Return the signal that is to be added to every channel of a sound so that it carries the message."""
        length = samples.shape[1]
        sound = _network_input(samples, sample_rate, self.device)
        bits = message_bits(self.message, self.network.msg_processor.nbits)
        message = torch.from_numpy(bits.astype(np.int64))[None].to(self.device)
        mark, weight = torch.zeros_like(sound), torch.zeros_like(sound)
        for begin, end in _windows(sound.shape[-1], FADE):
            with _uncompiled():
                part = self.network.get_watermark(sound[..., begin:end], message=message)
            fade = _fade(begin, end, sound.shape[-1]).to(self.device)
            mark[..., begin:end] += part * fade
            weight[..., begin:end] += fade
        added = resample((mark / weight)[0].cpu().numpy(), SAMPLE_RATE, sample_rate)[:, :length]
        padded = np.pad(added, ((0, 0), (0, length - added.shape[1])))
        marked: Samples = (padded * self.strength).astype(np.float32)
        return marked


@dataclass(frozen=True, eq=False)
class WatermarkDetector:
    """Detects marks."""

    network: Any
    device: str

    def detect(self, samples: Float[Samples, "C N"], sample_rate: int) -> Detection:
        """Look for a mark in the mean of a sound's channels."""
        sound = _network_input(samples, sample_rate, self.device)
        marked, logits, total = 0, torch.zeros(self.network.nbits, device=self.device), sound.shape[-1]
        for begin, end in _windows(total, 0):
            with _uncompiled():
                output = self.network.detector(self._levelled(sound[..., begin:end]))[0]
            marked += int((output[:2].softmax(0)[1] > 0.5).sum())
            logits += output[2:].sum(-1)
        return Detection(marked / total, (logits > 0).cpu().numpy())

    def _levelled(self, sound: Float[Tensor, "1 1 N"]) -> Float[Tensor, "1 1 N"]:
        """Return a sound at the loudness that the network expects; most networks take it as it is."""
        normalizer = self.network.normalizer
        return sound if normalizer is None else normalizer.loudness_normalization(sound)


def load_watermark_generator(
    path: Path, message: int = 0, strength: float = 1.0, device: str = "cpu"
) -> WatermarkGenerator:
    """Load a generator.

    Raises:
        ValueError: the file holds none or cannot be loaded safely, its messages are shorter than `message`, or a
            package is missing.
    """
    network = _load(path, "generator").to(device)
    message_bits(message, network.msg_processor.nbits)
    return WatermarkGenerator(network, message, strength, device)


def load_watermark_detector(path: Path, device: str = "cpu") -> WatermarkDetector:
    """Load a detector.

    Raises:
        ValueError: the file holds none, cannot be loaded safely, or a package is missing.
    """
    return WatermarkDetector(_load(path, "detector").to(device), device)


def _load(path: Path, kind: str) -> Any:
    """Build a network from the configuration in its file or from the package's, with the weights of the file."""
    try:
        from audioseal import builder
        from audioseal.loader import AudioSeal, convert_state_dict_for_scriptable_model, load_local_model_config
        from omegaconf import DictConfig, ListConfig, OmegaConf
        from omegaconf.base import ContainerMetadata, Metadata
        from omegaconf.nodes import AnyNode
    except ImportError as error:
        raise ValueError(f"expected the package audioseal for watermarks, got {error}: {INSTALL}") from error
    containers: tuple[Any, ...] = (DictConfig, ListConfig, ContainerMetadata, Metadata, AnyNode, defaultdict, Any)
    checkpoint = load_pickle(path, (*containers, dict, list, int))
    expected = f"expected the weights of an AudioSeal {kind} in {path}"
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"{expected}, got {type(checkpoint).__name__}")
    tensors = checkpoint.get("best_state", checkpoint)
    tensors = tensors.get("model", tensors)
    stored_config = checkpoint.get("xp.cfg")
    config = OmegaConf.create(stored_config) if stored_config is not None else None
    if config is None or "seanet" not in config:
        config = load_local_model_config(CARDS[kind])
    config_classes: dict[str, tuple[type, Callable[..., nn.Module]]] = {
        "generator": (builder.AudioSealWMConfig, builder.create_generator),
        "detector": (builder.AudioSealDetectorConfig, builder.create_detector),
    }
    config_class, create = config_classes[kind]
    try:
        settings = cast(dict[str, Any], OmegaConf.to_container(config))
        network = create(AudioSeal.parse_config(settings, config_class))
        plain = _without_weight_norm({str(name): value for name, value in tensors.items() if isinstance(value, Tensor)})
        network.load_state_dict(convert_state_dict_for_scriptable_model(plain))
    except Exception as error:  # OmegaConf and the package raise many kinds of errors for a bad configuration
        raise ValueError(f"{expected}, got {' '.join(str(error).split())[:300]}") from error
    return network.eval()


def _without_weight_norm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with their weight normalisation (arXiv:1602.07868) multiplied out, whichever of torch's names
    their direction and length are stored by."""
    name_pairs = ((r"\.weight_g$", ".weight_v"), (r"\.parametrizations\.weight\.original0$", None))
    plain = dict(tensors)
    for ending, partner_ending in name_pairs:
        for name in [name for name in tensors if re.search(ending, name)]:
            owner = re.sub(ending, "", name)
            partner = f"{owner}{partner_ending}" if partner_ending else f"{owner}.parametrizations.weight.original1"
            if partner in plain:
                plain[f"{owner}.weight"] = torch._weight_norm(plain.pop(partner), plain.pop(name), 0)
    return plain


def _network_input(samples: Samples, sample_rate: int, device: str) -> Float[Tensor, "1 1 N"]:
    """Return a sound as the input of the networks: mono, at `SAMPLE_RATE`.

    Raises:
        ValueError: the sound has no samples.
    """
    if not samples.shape[1]:
        raise ValueError("expected samples to mark, got none")
    mono = resample(to_mono(samples), sample_rate, SAMPLE_RATE)
    if not mono.shape[1]:
        mono = np.zeros((1, 1), np.float32)
    return torch.from_numpy(np.ascontiguousarray(mono, np.float32))[None].to(device)


def _windows(length: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Yield the beginning and end of windows that cover a sound, of about equal length; neighbours share `overlap`
    samples."""
    count = max(1, round(length / WINDOW))
    borders = [round(number * length / count) for number in range(count + 1)]
    for begin, end in pairwise(borders):
        yield begin, min(end + overlap, length)


def _fade(begin: int, end: int, length: int) -> Float[Tensor, " N"]:
    """Return a window's weights. They rise over its first samples unless the sound begins there, and fall over its last
    samples unless the sound ends there."""
    steps = (torch.arange(FADE) + 0.5) / FADE
    weights = torch.ones(end - begin)
    if begin > 0:
        weights[:FADE] = steps[: len(weights)]
    if end < length:
        weights[-FADE:] = 1 - steps
    return weights


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Return a context in which the networks run uncompiled. The package compiles parts of them at their first use;
    that needs a C compiler, and rounds differently from one call to the next."""
    from audioseal.libs.moshi.utils.compile import no_compile

    with no_compile(), torch.inference_mode():
        yield
