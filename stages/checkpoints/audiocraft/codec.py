"""AudioCraft's codecs, read as an `EncodecModel` and written: a SEANet with a residual quantiser (EnCodec,
arXiv:2210.13438).

`compression_state_dict.bin` either holds weights and configuration, or only names a codec that is published elsewhere
(`{"pretrained": "facebook/encodec_32khz"}`). Reading and writing follow `get_compression_model` and
`load_compression_model` of AudioCraft 1.3.0 (`audiocraft/models/builders.py`, `loaders.py`). Options of SEANet that
transformers' network lacks are refused by name.

Both projects build the same layers in the same order, so that the numbers in their names are the same. They differ in
the wrappers around a convolution, in how weight normalisation is stored (`weight_g` and `weight_v`, or the two
originals of a parametrisation), and in the names of a level's codebook.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import EncodecConfig, EncodecModel

from model.codec.network import bandwidth_for
from schemas import WeightsRef
from stages.checkpoints.audiocraft.package import (
    CODEC_FILE,
    VERSION,
    Package,
    Section,
    parse_package,
    read_pickled,
    write_package,
)
from stages.checkpoints.disk_errors import disk_errors
from stages.checkpoints.native import FindWeights, load_encodec
from stages.networks.loading import check_tensors

_SEANET = {
    "channels": "audio_channels",
    "dimension": "hidden_size",
    "n_filters": "num_filters",
    "n_residual_layers": "num_residual_layers",
    "ratios": "upsampling_ratios",
    "norm": "norm_type",
    "kernel_size": "kernel_size",
    "last_kernel_size": "last_kernel_size",
    "residual_kernel_size": "residual_kernel_size",
    "dilation_base": "dilation_growth_rate",
    "causal": "use_causal_conv",
    "pad_mode": "pad_mode",
    "compress": "compress",
    "lstm": "num_lstm_layers",
    "trim_right_ratio": "trim_right_ratio",
}
"""Settings of SEANet -> their names in transformers."""

_DEFAULTS: dict[str, Any] = {
    "channels": 1,
    "dimension": 128,
    "n_filters": 32,
    "n_residual_layers": 3,
    "ratios": [8, 5, 4, 2],
    "norm": "none",
    "kernel_size": 7,
    "last_kernel_size": 7,
    "residual_kernel_size": 3,
    "dilation_base": 2,
    "causal": False,
    "pad_mode": "reflect",
    "compress": 2,
    "lstm": 0,
    "trim_right_ratio": 1.0,
    "true_skip": True,
}
"""AudioCraft's defaults for settings that are absent (`audiocraft/modules/seanet.py`)."""

_WITHOUT_COUNTERPART: dict[str, tuple[Any, ...]] = {
    "activation": ("ELU",),
    "activation_params": ({"alpha": 1.0}, {}),
    "final_activation": (None,),
    "final_activation_params": (None, {}),
    "norm_params": ({}, None),
    "disable_norm_outer_blocks": (0,),
}
"""Settings that transformers' network does not have, with the values that it is equivalent to."""

_QUANTIZER_TRAINING = {"q_dropout", "decay", "kmeans_init", "kmeans_iters", "threshold_ema_dead_code"}
_QUANTIZER_TRAINING |= {f"orthogonal_reg_{name}" for name in ("weight", "active_codes_only", "max_codes")}
"""Settings of how codebooks learned; what they encode does not depend on them."""


@dataclass(frozen=True, eq=False)
class AudioCraftCodec:
    """A codec, and the name that the file gives for it where its weights are elsewhere."""

    network: EncodecModel
    reference: str | None


def read_audiocraft_codec(folder: Path, weights: FindWeights) -> AudioCraftCodec:
    """Read the codec of an AudioCraft folder (`compression_state_dict.bin`), on the CPU.

    Args:
        weights: finds a codec that the file only names (`context.weights`).

    Raises:
        ValueError: there is no codec, the file is damaged or names code, or transformers has no such codec.
        MissingWeights: the codec that it names cannot be fetched.
    """
    path = folder / CODEC_FILE
    content = read_pickled(path)
    if "pretrained" in content:
        reference = content["pretrained"]
        if not isinstance(reference, str) or reference.count("/") != 1:
            raise ValueError(f"expected an EnCodec of the hub under 'pretrained' in {path}, got {reference!r}")
        return AudioCraftCodec(load_encodec(weights(WeightsRef(reference)).path), reference)
    return AudioCraftCodec(codec_from_audiocraft(parse_package(content, path)).eval(), None)


def codec_from_audiocraft(package: Package) -> EncodecModel:
    """Build the network of an exported codec.

    Raises:
        ValueError: an option that transformers' network does not have, or weights that do not fit the configuration.
    """
    network = EncodecModel(codec_config_from_audiocraft(package.config))
    names, own = audiocraft_codec_names(network), network.state_dict()
    check_tensors(package.state, {there: own[here].shape for here, there in names.items()}, "the codec")
    network.load_state_dict({here: package.state[there] for here, there in names.items()})
    return network


def codec_config_from_audiocraft(settings: Section) -> EncodecConfig:
    """Return transformers' configuration for AudioCraft's configuration of a codec.

    Raises:
        ValueError: an option that transformers' network does not have.
    """
    settings.check("compression_model", "encodec")
    codec, quantizer, seanet = settings.section("encodec"), settings.section("rvq"), settings.section("seanet")
    codec.check("autoencoder", "seanet")
    codec.check("quantizer", "rvq")
    values = _merge_sides(seanet)
    if values["norm"] not in ("weight_norm", "time_group_norm"):
        raise ValueError(f"expected seanet.norm to be 'weight_norm' or 'time_group_norm', got {values['norm']!r}")
    if values["lstm"] < 1:
        raise ValueError(f"expected seanet.lstm of at least one layer, got {values['lstm']}")
    quantizer.refuse_unknown({"n_q", "bins"} | _QUANTIZER_TRAINING)
    levels, cardinality = quantizer.get("n_q", 8), quantizer.get("bins", 1024)
    if levels < 1:
        raise ValueError(f"expected at least one codebook for rvq.n_q, got {levels}")
    bits = max(cardinality, 1).bit_length() - 1
    if 2**bits != cardinality or not bits:
        raise ValueError(f"expected a power of two for rvq.bins, got {cardinality}")
    sample_rate = int(codec.number("sample_rate"))
    channels = codec.get("channels", values["channels"])
    if channels != values["channels"]:
        raise ValueError(f"expected encodec.channels = seanet.channels = {values['channels']}, got {channels}")
    frame_rate = math.ceil(sample_rate / math.prod(values["ratios"]))
    config = EncodecConfig(
        sampling_rate=sample_rate,
        normalize=codec.get("renormalize", False),
        use_conv_shortcut=not values["true_skip"],
        codebook_size=cardinality,
        target_bandwidths=[bandwidth_for(levels, bits, frame_rate)],
        **{there: values[here] for here, there in _SEANET.items()},
    )
    assert config.num_quantizers == levels
    return config


def _merge_sides(seanet: Section) -> dict[str, Any]:
    """Read SEANet's settings, which must be the same in encoder and decoder: transformers has one set for both."""
    shared = {key: value for key, value in seanet.values.items() if key not in ("encoder", "decoder")}
    sides = [Section("seanet", shared | dict(seanet.section(side).values)) for side in ("encoder", "decoder")]
    for side in sides:
        side.refuse_unknown(set(_DEFAULTS) | set(_WITHOUT_COUNTERPART))
        for key, allowed in _WITHOUT_COUNTERPART.items():
            side.check(key, *allowed)
    encoder, decoder = ({key: side.get(key, default) for key, default in _DEFAULTS.items()} for side in sides)
    for key in set(_DEFAULTS) - {"trim_right_ratio"}:  # the encoder has no transposed convolutions to trim
        if encoder[key] != decoder[key]:
            raise ValueError(
                f"expected the same seanet.{key} for encoder and decoder, got {encoder[key]!r} and {decoder[key]!r}"
            )
    for key in ("channels", "dimension", "n_filters", "n_residual_layers", "compress", "dilation_base"):
        if decoder[key] < 1:
            raise ValueError(f"expected seanet.{key} of at least 1, got {decoder[key]}")
    if not decoder["ratios"] or not all(isinstance(ratio, int) and ratio > 0 for ratio in decoder["ratios"]):
        raise ValueError(f"expected whole numbers above 0 for seanet.ratios, got {decoder['ratios']}")
    return decoder


def write_audiocraft_codec(network: EncodecModel, folder: Path) -> None:
    """Write a codec's weights and configuration as AudioCraft's `export_encodec` does.

    Raises:
        ValueError: the codec has a feature that AudioCraft's SEANet and quantiser lack.
    """
    config = network.config
    if config.chunk_length_s is not None:
        raise ValueError(
            f"expected a codec without chunks, as AudioCraft's are, got chunks of {config.chunk_length_s} s"
        )
    if config.codebook_dim != config.hidden_size:
        raise ValueError(
            f"expected codebooks as wide as the latents, as AudioCraft's are, got {config.codebook_dim} and "
            f"{config.hidden_size}"
        )
    if config.normalize and config.use_causal_conv:
        raise ValueError(
            "expected a codec that is causal or scales its input, as AudioCraft's are, got one that does both"
        )
    seanet = {here: getattr(config, there) for here, there in _SEANET.items()}
    seanet["ratios"] = list(seanet["ratios"])
    trim = seanet.pop("trim_right_ratio")
    seanet |= {key: allowed[0] for key, allowed in _WITHOUT_COUNTERPART.items() if not key.startswith("final")}
    seanet |= {
        "true_skip": not config.use_conv_shortcut,
        "encoder": {},
        "decoder": {"trim_right_ratio": trim, "final_activation": None, "final_activation_params": None},
    }
    settings = {
        "solver": "compression",
        "sample_rate": config.sampling_rate,
        "channels": config.audio_channels,
        "device": "cpu",
        "compression_model": "encodec",
        "encodec": {
            "autoencoder": "seanet",
            "quantizer": "rvq",
            "sample_rate": config.sampling_rate,
            "channels": config.audio_channels,
            "causal": config.use_causal_conv,
            "renormalize": config.normalize,
        },
        "seanet": seanet,
        "rvq": {"n_q": config.num_quantizers, "bins": config.codebook_size, "kmeans_init": True},
    }
    state = network.state_dict()
    write_package(
        folder / CODEC_FILE, {there: state[name] for name, there in audiocraft_codec_names(network).items()}, settings
    )


@disk_errors()
def write_codec_reference(reference: str, folder: Path) -> None:
    """Write the name of a published codec, as AudioCraft's `export_pretrained_compression_model` does."""
    with open(folder / CODEC_FILE, "wb") as file:  # with a file object torch raises the system's own error
        torch.save({"pretrained": reference, "exported": True, "version": VERSION}, file)


_INSIDE_A_CONVOLUTION = {
    "conv.parametrizations.weight.original0": "{kind}.{kind}.weight_g",
    "conv.parametrizations.weight.original1": "{kind}.{kind}.weight_v",
    "conv.weight": "{kind}.{kind}.weight",
    "conv.bias": "{kind}.{kind}.bias",
    "norm.weight": "{kind}.norm.weight",
    "norm.bias": "{kind}.norm.bias",
}
"""A convolution's tensors in transformers -> in AudioCraft; `kind` is `conv` or, for a transposed one, `convtr`."""


def audiocraft_codec_names(network: EncodecModel) -> dict[str, str]:
    """Return the name in the state of AudioCraft's `EncodecModel` for every name in a network's state.

    Raises:
        ValueError: the network's weight normalisation is folded into its weights
            (`model.codec.network.fold_weight_norm`).
    """
    if network.config.norm_type == "weight_norm" and not any(
        "parametrizations" in name for name in network.state_dict()
    ):
        raise ValueError("expected a codec with its weight normalisation, got one with plain weights")
    names = {}
    for path, module in network.named_modules():
        if isinstance(getattr(module, "conv", None), nn.Conv1d | nn.ConvTranspose1d):
            kind = "convtr" if isinstance(module.conv, nn.ConvTranspose1d) else "conv"
            there = path.replace(".layers.", ".model.", 1)
            for inside in module.state_dict():
                names[f"{path}.{inside}"] = f"{there}.{_INSIDE_A_CONVOLUTION[inside].format(kind=kind)}"
    for name in network.state_dict():
        if ".lstm." in name:
            names[name] = name.replace(".layers.", ".model.", 1)
        elif name.startswith("quantizer."):
            names[name] = name.replace("quantizer.", "quantizer.vq.", 1).replace(".codebook.", "._codebook.", 1)
    return names
