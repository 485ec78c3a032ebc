"""Networks in AudioSeal's form with weights made here: random ones of the published sizes, which detect nothing, and a
spread-spectrum watermark with its matched filter, written as AudioSeal's layers, which works without training.

The latter's generator adds tones of 1.3 to 3.4 kHz, one that is always there and one for each bit, whose sign is the
bit; it does not depend on the sound. The detector correlates with them over 0.8 s.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from audioseal import builder
from audioseal.libs.moshi.utils.compile import no_compile
from audioseal.loader import AudioSeal, load_local_model_config
from omegaconf import OmegaConf
from torch import Tensor, nn

BITS, HOP, OFFSET = 16, 62, 2.0
TONES = range(5, 14)
"""Harmonics of 258 Hz; none is a harmonic of the 25 Hz hum of a codec of random weights."""
AMPLITUDE = 0.012
"""Amplitude of each tone."""
FRAMES = 201
"""Number of frames of 62 samples that the detector looks at together."""
SMALL = {"n_filters": 20, "dimension": 32, "ratios": [HOP], "lstm": 0}
THRESHOLD = 0.5
"""Share of the amplitude above which the constant tone counts as found."""

CARDS = {"generator": "audioseal_wm_16bits", "detector": "audioseal_detector_16bits"}


def build(kind: str, **seanet: Any) -> tuple[Any, dict[str, Any]]:
    """A network by the published card, with other sizes if they are given, and its configuration."""
    card = OmegaConf.to_container(load_local_model_config(CARDS[kind]))
    del card["checkpoint"]
    card["seanet"].update(seanet)
    if kind == "generator":
        return builder.create_generator(AudioSeal.parse_config(_copy(card), builder.AudioSealWMConfig)).eval(), card
    return builder.create_detector(AudioSeal.parse_config(_copy(card), builder.AudioSealDetectorConfig)).eval(), card


def _copy(card: dict[str, Any]) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.create(card))


def save(path: Path, network: nn.Module, config: Any, weight_norm: bool = False) -> Path:
    """Write a network in the form of AudioSeal's published files: with the older names of its layers, and its
    configuration in OmegaConf's form (facebookresearch/audioseal#107)."""
    state = {name.replace(".inner_conv", ""): value.clone() for name, value in network.state_dict().items()}
    if weight_norm:
        for name in [name for name in state if name.endswith((".conv.weight", ".convtr.weight"))]:
            weight = state.pop(name)
            state[f"{name}_g"] = weight.flatten(1).norm(dim=1).reshape(-1, 1, 1)
            state[f"{name}_v"] = weight * 3
    content = {"model": state} | ({} if config is None else {"xp.cfg": OmegaConf.create(config)})
    torch.save(content, path)
    return path


def tone_pair(folder: Path) -> tuple[Path, Path]:
    """Write a generator and its detector that work."""
    folder.mkdir(parents=True, exist_ok=True)
    generator, generator_card = build("generator", **SMALL)
    waves = _set_generator(generator)
    detector, detector_card = build("detector", **SMALL, last_kernel_size=FRAMES, pad_mode="replicate")
    _set_detector(detector, waves)
    return (
        save(folder / "generator.pth", generator, generator_card),
        save(folder / "detector.pth", detector, detector_card),
    )


def _waves() -> Tensor:
    """[1 + BITS, HOP]: the constant wave and one for each bit, orthogonal."""
    time = torch.arange(HOP) / HOP
    waves = [shape(2 * np.pi * tone * time) for tone in TONES for shape in (torch.sin, torch.cos)]
    return torch.stack(waves[: 1 + BITS])


@torch.no_grad()
def _set_generator(network: Any) -> Tensor:
    """Set the generator's weights, and return one period of each wave in its output."""
    for value in network.parameters():
        value.zero_()
    for bit in range(BITS):
        network.msg_processor.msg_processor.weight[2 * bit, bit] = -1
        network.msg_processor.msg_processor.weight[2 * bit + 1, bit] = 1
    layers = network.decoder.model
    first, up, last = (
        layers[0].conv.conv.inner_conv,
        layers[2].convtr.convtr.inner_conv,
        layers[-1].conv.conv.inner_conv,
    )
    # Every channel stays above 0, where an ELU is the identity.
    for bit in range(BITS):
        first.weight[bit, bit, first.weight.shape[2] // 2] = 1
        first.bias[bit] = OFFSET
    first.bias[BITS] = 1
    waves = AMPLITUDE * _waves()
    up.weight[:BITS, 0, :HOP] = waves[1:]
    up.weight[BITS, 0, :HOP] = waves[0] - OFFSET * waves[1:].sum(0)
    up.bias[0] = OFFSET
    last.weight[0, 0, last.weight.shape[2] // 2] = 1
    last.bias[0] = -OFFSET
    silence, middle = torch.zeros(1, 1, 100 * HOP), slice(50 * HOP, 51 * HOP)
    with no_compile():
        ones = [network.get_watermark(silence, message=torch.eye(BITS)[[bit]])[0, 0, middle] for bit in range(BITS)]
        none = network.get_watermark(silence, message=torch.zeros(1, BITS))[0, 0, middle]
    bits = [(one - none) / 2 for one in ones]
    return torch.stack([none + sum(bits), *bits]) / AMPLITUDE


@torch.no_grad()
def _set_detector(network: Any, waves: Tensor) -> None:
    for value in network.parameters():
        value.zero_()
    encoder, head = network.detector
    first, down, last = (encoder.model[at].conv.conv.inner_conv for at in (0, 3, -1))
    first.weight[0, 0, first.weight.shape[2] // 2] = 1
    first.bias[0] = OFFSET
    shifted = waves.roll(HOP // 2, dims=1)  # a frame begins half a hop earlier
    for number, wave in enumerate(shifted):
        down.weight[number, 0] = torch.cat([wave, wave]) / HOP
        down.bias[number] = OFFSET
        last.weight[number, number] = 1 / FRAMES
        last.bias[number] = -OFFSET
        encoder.reverse_convolution.weight[number, number] = 1
    head.weight[1, 0, 0], head.bias[1] = 1_000, -1_000 * THRESHOLD * AMPLITUDE
    for bit in range(BITS):
        head.weight[2 + bit, 1 + bit, 0] = 1_000


def random_pair(folder: Path, weight_norm: bool = True) -> tuple[Path, Path]:
    """Write random networks of the published sizes; what they detect means nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(3)
    paths = []
    for kind in ("generator", "detector"):
        network, card = build(kind)
        paths.append(save(folder / f"{kind}_base.pth", network, card, weight_norm))
    return paths[0], paths[1]
