"""AudioCraft's files around given weights: the configuration of MusicGen, and small codecs and text encoders."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import EncodecConfig, EncodecModel

from model.lm.language_model import LanguageModel
from schemas import WeightsRef
from schemas.weights import LocalWeights, folder_digest
from stages.checkpoints.audiocraft.codec import write_audiocraft_codec
from stages.checkpoints.audiocraft.lm import decoder_from_audiocraft, decoder_state_to_audiocraft
from stages.checkpoints.audiocraft.package import LANGUAGE_MODEL_FILE, Section, write_package
from tests.worlds.tiny_models import text_encoder

SAMPLE_RATE, TEXT_WIDTH, LABELS, LABEL_WIDTH, JOINT_WIDTH = 8_000, 16, 30, 5, 6

CONDITIONERS: dict[str, dict[str, Any]] = {
    "description": {
        "model": "t5",
        "t5": {"name": "t5-base", "finetune": False, "word_dropout": 0.3, "normalize_text": False},
    },
    "genre": {"model": "lut", "lut": {"n_bins": LABELS, "dim": LABEL_WIDTH, "tokenizer": "noop"}},
    "self_wav": {
        "model": "chroma_stem",
        "chroma_stem": {
            **{"sample_rate": 32_000, "n_chroma": 12, "radix2_exp": 14, "argmax": True, "match_len_on_eval": False},
            **{"eval_wavs": None, "n_eval_wavs": 100, "cache_path": None},
        },
    },
}
"""Conditioners as in AudioCraft's `text2music` and `chroma2music`, and a table."""

JOINT = {
    "model": "clap",
    "clap": {
        **{"checkpoint": "//reference/clap/music.pt", "model_arch": "HTSAT-base", "enable_fusion": False},
        **{"sample_rate": 48_000, "max_audio_length": 10, "audio_stride": 1, "dim": JOINT_WIDTH},
        **{"attribute": "description", "normalize": True, "quantize": True, "n_q": 2, "bins": 4, "kmeans_iters": 50},
        **{"text_p": 0.0, "cache_path": None},
    },
}
"""A joint conditioner as in `clapemb2music`, with smaller codebooks."""

DECODER = {"n_q": 2, "card": 16, "dim": 16, "num_heads": 2, "num_layers": 2, "hidden_scale": 4, "dropout": 0.0}
DECODER |= {"activation": "gelu", "norm_first": True, "bias_ff": False, "bias_attn": False, "bias_proj": False}
DECODER |= {"causal": True, "custom": False, "memory_efficient": True, "positional_embedding": "sin", "xpos": False}
DECODER |= {"layer_scale": None, "past_context": None, "norm": "layer_norm", "cross_attention": False, "kv_repeat": 1}
DECODER |= {"emb_lr": None, "weight_init": "gaussian", "depthwise_init": "current", "zero_bias_init": True}


FORMS: dict[str, dict[str, Any]] = {
    "text": {"fusing": {"cross": ["description"]}},
    "melody": {"fusing": {"prepend": ["self_wav", "description"]}},
    "labels": {"fusing": {"cross": ["description"], "sum": ["genre"]}},
    "joint": {"fusing": {"cross": ["description"]}, "joint": True},
    "unconditional": {"fusing": {}},
    "stereo": {
        "fusing": {"cross": ["description"]},
        "decoder": {"n_q": 4},
        "settings": {"interleave_stereo_codebooks": {"use": True}}
        | {"codebooks_pattern": {"modeling": "delay", "delay": {"delays": [0, 0, 1, 1]}}},
    },
    "one level of two": {"fusing": {}, "decoder": {"n_q": 1}, "settings": {"compression_model_n_q": 1}},
    "rotary": {"fusing": {}, "decoder": {"positional_embedding": "rope", "xpos": True, "bias_attn": True}},
    "normed after": {"fusing": {"cross": ["description"]}, "decoder": {"norm_first": False, "bias_proj": True}},
    "short memory": {"fusing": {}, "decoder": {"past_context": 4, "memory_efficient": False, "custom": True}},
    "grouped heads": {"fusing": {}, "decoder": {"kv_repeat": 2, "hidden_scale": 2.3, "layer_scale": 0.1}},
    "opening": {
        "fusing": {},
        "settings": {"codebooks_pattern": {"modeling": "delay", "delay": {"flatten_first": 2, "empty_initial": 1}}},
    },
    "parallel": {
        "fusing": {},
        "settings": {"codebooks_pattern": {"modeling": "parallel", "parallel": {"empty_initial": 2}}},
    },
    "unrolled in one": {
        "fusing": {},
        "settings": {"codebooks_pattern": {"modeling": "unroll", "unroll": {"flattening": [0, 0], "delays": [0, 1]}}},
    },
    "unrolled": {"fusing": {}, "settings": {"codebooks_pattern": {"modeling": "unroll", "unroll": {}}}},
    "grouped": {"fusing": {}, "settings": {"codebooks_pattern": {"modeling": "musiclm", "musiclm": {"group_by": 1}}}},
    "coarse first": {
        "fusing": {},
        "settings": {"codebooks_pattern": {"modeling": "coarse_first", "coarse_first": {"delays": [1]}}},
    },
}
"""Forms of a model: its conditions, and settings in addition to those above."""


def settings_of(decoder: Mapping[str, Any], fusing: Mapping[str, list[str]], conditioners: Any) -> dict[str, Any]:
    """A configuration as MusicGen's training writes it, with its references and training settings."""
    ways: dict[str, list[str]] = {"sum": [], "prepend": [], "cross": [], "input_interpolate": []}
    return {
        "solver": "musicgen",
        "sample_rate": SAMPLE_RATE,
        "channels": 1,
        "compression_model_checkpoint": "//sig/0123abcd",
        "lm_model": "transformer_lm",
        "codebooks_pattern": {"modeling": "delay", "delay": {"flatten_first": 0, "empty_initial": 0}},
        "transformer_lm": DECODER | dict(decoder),
        "classifier_free_guidance": {"training_dropout": 0.3, "inference_coef": 3.0},
        "attribute_dropout": {},
        "fuser": {"cross_attention_pos_emb": False, "cross_attention_pos_emb_scale": 1} | ways | dict(fusing),
        "conditioners": conditioners,
        "dataset": {"segment_duration": "${generate.seconds}", "batch_size": 192, "train": {"merge_text_p": 0.25}},
        "generate": {"seconds": 30},
        "optim": {"lr": 1e-4, "ema": {"use": True}},
    }


def conditioner_state(conditioners: Mapping[str, Any], width: int) -> dict[str, Tensor]:
    """Random weights of conditioners, under the names in AudioCraft's files."""
    generator = torch.Generator().manual_seed(3)
    state: dict[str, Tensor] = {}
    for name, conditioner in conditioners.items():
        place, kind = f"condition_provider.conditioners.{name}.", conditioner["model"]
        sizes = conditioner[kind]
        inputs = {"t5": TEXT_WIDTH, "chroma_stem": 12}.get(kind) or sizes["dim"]
        state[f"{place}output_proj.weight"] = torch.randn(width, inputs, generator=generator)
        state[f"{place}output_proj.bias"] = torch.randn(width, generator=generator)
        if kind == "lut":
            state[f"{place}embed.weight"] = torch.randn(sizes["n_bins"], inputs, generator=generator)
        if kind == "chroma_stem":
            state[f"{place}chroma.spec.window"] = torch.hann_window(2**14)
        if kind == "clap" and sizes["quantize"]:
            for level in range(sizes["n_q"]):
                book = f"{place}quantizer.vq.layers.{level}._codebook."
                entries = torch.randn(sizes["bins"], inputs, generator=generator)
                state |= {f"{book}embed": entries, f"{book}embed_avg": entries.clone()}
                state |= {f"{book}cluster_size": torch.ones(len(entries)), f"{book}inited": torch.ones(1)}
    return state


def codec(codebooks: int, cardinality: int, seed: int = 0) -> EncodecModel:
    """A small mono codec whose codebooks are not empty."""
    torch.manual_seed(seed)
    bits = (cardinality - 1).bit_length()
    network: Any = EncodecModel(
        EncodecConfig(
            sampling_rate=SAMPLE_RATE,
            upsampling_ratios=[8, 5, 4],
            num_filters=2,
            hidden_size=4,
            num_lstm_layers=1,
            codebook_size=cardinality,
            target_bandwidths=[codebooks * bits * 50 / 1000],
            use_causal_conv=False,
            use_conv_shortcut=False,
        )
    )
    for layer in network.quantizer.layers:
        layer.codebook.embed.normal_()
    return network.eval()


def write_files(folder: Path, state: Mapping[str, Tensor], settings: Mapping[str, Any], network: EncodecModel) -> None:
    """Write both files of a checkpoint."""
    write_package(folder / LANGUAGE_MODEL_FILE, state, settings)
    write_audiocraft_codec(network, folder)


def text_encoders(folder: Path) -> Callable[[WeightsRef], LocalWeights]:
    """A function that returns a small encoder for every reference to `t5-base`."""
    path = text_encoder(folder / "t5")

    def find(reference: WeightsRef) -> LocalWeights:
        assert reference == "google-t5/t5-base"
        return LocalWeights(str(reference), path, folder_digest(path))

    return find


@dataclass(frozen=True)
class Written:
    """A folder in AudioCraft's form."""

    folder: Path
    state: dict[str, Tensor]
    """State of the language model and its conditioners."""


def form(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration of a form, and its conditioners."""
    given = FORMS[name]
    named = [one for one in CONDITIONERS if any(one in names for names in given["fusing"].values())]
    conditioners = {one: CONDITIONERS[one] for one in named}
    if given.get("joint"):
        conditioners = {"description": JOINT}
    settings = settings_of(given.get("decoder", {}), given["fusing"], conditioners) | given.get("settings", {})
    return copy.deepcopy(settings), conditioners


def decoder_state(settings: dict[str, Any]) -> dict[str, Tensor]:
    """Random weights of a configuration's decoder, under AudioCraft's names."""
    config = decoder_from_audiocraft(Section("", settings), {name: name for name in settings["conditioners"]})
    torch.manual_seed(2)
    network = LanguageModel(config)
    for value in network.parameters():
        torch.nn.init.normal_(value, std=0.3)
    return decoder_state_to_audiocraft(network.state_dict(), config)


def change(settings: dict[str, Any], place: str, value: Any) -> None:
    """Set a setting by its dotted name."""
    *sections, key = place.split(".")
    for section in sections:
        settings = settings.setdefault(section, {})
    settings[key] = value


def written(tmp_path: Path, name: str, place: str = "", value: Any = None) -> Written:
    """A checkpoint of a form, with the setting at `place` set to `value` if there is one."""
    settings, conditioners = form(name)
    if place:
        change(settings, place, value)
    state = decoder_state(settings) | conditioner_state(conditioners, settings["transformer_lm"]["dim"])
    folder = tmp_path / "audiocraft"
    folder.mkdir()
    write_files(folder, state, settings, codec(2, 16))
    return Written(folder, state)
