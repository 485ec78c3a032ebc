"""AudioCraft's language model, read and written: its settings and the names of its parameters.

The settings are the sections `transformer_lm`, `codebooks_pattern` and `fuser`. They have the meaning that they have in
AudioCraft 1.3.0 (`config/model/lm/default.yaml`, `audiocraft/models/lm.py` and `builders.py`,
`audiocraft/modules/transformer.py` and `codebooks_patterns.py`). Settings of training, precision and speed are ignored;
a setting that changes what the model computes is either supported or refused by name.

Parameters have the same shapes in both projects, so that only names differ between their states. AudioCraft's own
models differ in two things: attention of PyTorch's kind keeps its parameters under `mha`, and rotary positions keep
tables in the state that follow from the configuration.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from model.lm.config import LanguageModelConfig
from model.lm.positions import rotation_frequencies, xpos_decay_rates
from stages.checkpoints.audiocraft.package import Section

FUSIONS = {"cross": "cross", "prepend": "prepend", "sum": "sum", "input_interpolate": "interpolate"}
"""The ways in which conditions join the decoder: AudioCraft's name -> the field here."""

_POSITIONS = {"sin": "sinusoidal", "rope": "rotary", "sin_rope": "both"}
_PATTERNS = {"unroll": "unroll", "coarse_first": "coarse_first", "musiclm": "grouped"}
"""Patterns besides `delay`, and `parallel`, which is a delay pattern whose delays are all 0."""

_OPENING = ("flatten_first", "empty_initial")
"""Settings of how a delay pattern begins; they have the same names in both projects."""

_IGNORED = {
    *("emb_lr", "lr", "weight_decay", "weight_init", "depthwise_init", "zero_bias_init", "checkpointing"),
    *("memory_efficient", "custom", "attention_as_float32", "cross_attention", "q_modeling", "two_step_cfg"),
}
"""Ignored settings of training and precision. Cross-attention follows from the fuser, and guidance in two steps belongs
to a request."""

_READ = {
    *("n_q", "card", "dim", "num_heads", "num_layers", "hidden_scale", "activation", "dropout", "attention_dropout"),
    *("norm", "norm_first", "causal", "bias_attn", "bias_ff", "bias_proj", "layer_scale", "qk_layer_norm"),
    *("qk_layer_norm_cross", "kv_repeat", "past_context", "positional_embedding", "xpos", "max_period"),
    "positional_scale",
}


def decoder_from_audiocraft(settings: Section, conditions: Mapping[str, str]) -> LanguageModelConfig:
    """Return the decoder's configuration for AudioCraft's.

    Args:
        settings: the whole configuration.
        conditions: AudioCraft's name of each conditioner -> the condition's name here.

    Raises:
        ValueError: a setting (named) that the decoder does not support.
    """
    settings.check("lm_model", "transformer_lm")
    decoder = settings.section("transformer_lm")
    decoder.refuse_unknown(_READ | _IGNORED)
    decoder.check("norm", "layer_norm")
    if not decoder.get("causal", False):
        raise ValueError("expected transformer_lm.causal to be True, got False")
    if decoder.get("positional_embedding", "sin") not in _POSITIONS:
        raise ValueError(
            f"expected transformer_lm.positional_embedding among {sorted(_POSITIONS)}, "
            f"got {decoder.get('positional_embedding', 'sin')!r}"
        )
    if decoder.values.get("past_context") is not None and decoder.get("memory_efficient", False):
        raise ValueError(
            "expected transformer_lm.memory_efficient to be False with a past_context, which memory-efficient "
            "attention ignores, got True"
        )
    codebooks, width, heads = decoder.get("n_q", 8), decoder.get("dim", 128), decoder.get("num_heads", 8)
    scale, repeat = float(decoder.get("hidden_scale", 4.0)), decoder.get("kv_repeat", 1)
    return LanguageModelConfig(
        codebooks=codebooks,
        cardinality=decoder.get("card", 1024),
        width=width,
        heads=heads,
        layers=decoder.require("num_layers"),
        feedforward_multiplier=int(scale) if scale.is_integer() else 4,
        feedforward_width=None if scale.is_integer() else int(scale * width),
        activation=decoder.values.get("activation", "relu"),
        dropout=decoder.get("dropout", 0.1),
        attention_dropout=decoder.values.get("attention_dropout"),
        norm="before" if decoder.get("norm_first", False) else "after",
        attention_bias=decoder.get("bias_attn", True),
        feedforward_bias=decoder.get("bias_ff", True),
        head_bias=decoder.get("bias_proj", True),
        layer_scale=decoder.values.get("layer_scale"),
        query_key_norm=decoder.get("qk_layer_norm", False),
        cross_query_key_norm=decoder.get("qk_layer_norm_cross", False),
        key_value_heads=heads // repeat if repeat > 1 else None,
        past_context=decoder.values.get("past_context"),
        positions=_POSITIONS[decoder.get("positional_embedding", "sin")],
        xpos=decoder.get("xpos", False),
        position_period=float(decoder.get("max_period", 10_000.0)),
        position_scale=float(decoder.get("positional_scale", 1.0)),
        padding="attended",
        **_pattern_from_audiocraft(settings.section("codebooks_pattern"), decoder, codebooks),
        **_fuser_from_audiocraft(settings.section("fuser"), conditions),
    )


def _pattern_from_audiocraft(pattern: Section, decoder: Section, codebooks: int) -> dict[str, Any]:
    """Return the fields of the pattern. Older configurations name it in the decoder's section, with delays that count
    up."""
    if pattern.values.get("modeling") is None:
        decoder.check("q_modeling", "delay", "parallel")
        name, section = decoder.require("q_modeling"), Section("codebooks_pattern.delay", {})
    else:
        name = pattern.require("modeling")
        pattern.check("modeling", "delay", "parallel", *_PATTERNS)
        section = pattern.section(name)
    if name == "parallel":
        return {"pattern": "delay", "delays": (0,) * codebooks, "empty_initial": section.get("empty_initial", 0)}
    if name == "delay":
        delays = section.get("delays", list(range(codebooks)))
        opening = {knob: section.get(knob, 0) for knob in _OPENING}
        return {"pattern": "delay", "delays": None if delays == list(range(codebooks)) else tuple(delays)} | opening
    if name == "unroll":
        ascending = list(range(codebooks))  # a step for each codebook
        flattening = ascending if section.values.get("flattening") is None else section.get("flattening", ascending)
        delays = tuple(section.get("delays", [0] * codebooks))
        return {
            "pattern": "unroll",
            "delays": delays,
            "flattening": None if flattening == ascending else tuple(flattening),
        }
    if name == "coarse_first":
        return {"pattern": "coarse_first", "delays": (0, *section.get("delays", [0] * (codebooks - 1)))}
    return {"pattern": "grouped", "group": section.get("group_by", 2)}


def _fuser_from_audiocraft(fuser: Section, conditions: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields that say how conditions join the decoder."""
    fuser.refuse_unknown({*FUSIONS, "ignore", "cross_attention_pos_emb", "cross_attention_pos_emb_scale"})
    fuser.check("ignore", [], None)
    fields: dict[str, Any] = {
        "cross_positions": fuser.get("cross_attention_pos_emb", False),
        "cross_position_scale": float(fuser.get("cross_attention_pos_emb_scale", 1.0)),
    }
    for theirs, field in FUSIONS.items():
        names = fuser.get(theirs, [])
        for name in names:
            if name not in conditions:
                raise ValueError(
                    f"expected conditions of {fuser.full_name(theirs)} among {sorted(conditions)}, got {name}"
                )
        fields[field] = tuple(conditions[name] for name in names)
    _refuse_twice([name for field in FUSIONS.values() for name in fields[field]])
    return fields


def _refuse_twice(fused: list[str]) -> None:
    """Raise ValueError for a condition that joins in two ways: AudioCraft allows one way each."""
    if repeated := sorted({name for name in fused if fused.count(name) > 1}):
        raise ValueError(f"expected each condition to join in one way, as in AudioCraft, got {repeated} in several")


def decoder_to_audiocraft(config: LanguageModelConfig, names: Mapping[str, str]) -> dict[str, Any]:
    """Return the sections `transformer_lm`, `codebooks_pattern` and `fuser` of AudioCraft's configuration.

    `padding` has no counterpart, because AudioCraft always attends to padding. The results differ only in a batch with
    conditions of different lengths; a row by itself is computed alike. Two features are computed alike in training
    only: while AudioCraft 1.3.0 decodes, it rotates all rotary positions alike, and stretches an interpolated condition
    over one step at a time.

    Args:
        names: AudioCraft's name of each condition.

    Raises:
        ValueError: a feature (named) of the decoder that AudioCraft does not have.
    """
    if config.interpolate_steps is not None:
        raise ValueError(f"expected interpolate_steps to be None, as in AudioCraft, got {config.interpolate_steps}")
    if list(config.codebook_delays) != sorted(config.codebook_delays):
        raise ValueError(f"expected delays in ascending order, as in AudioCraft, got {config.codebook_delays}")
    _refuse_twice([*config.cross, *config.prepend, *config.sum, *config.interpolate])
    delays = list(config.codebook_delays)
    if config.pattern in ("coarse_first", "grouped") and delays[0]:
        raise ValueError(f"expected a first codebook without delay, as in AudioCraft, got {delays[0]}")
    if config.pattern == "grouped" and any(delays):
        raise ValueError(f"expected no delays in the grouped pattern, as AudioCraft has none, got {tuple(delays)}")
    if config.pattern == "coarse_first":
        delays = delays[1:]
    modeling = {ours: theirs for theirs, ours in _PATTERNS.items()}.get(config.pattern, "delay")
    pattern: dict[str, Any] = {"group_by": config.group} if modeling == "musiclm" else {"delays": delays}
    if modeling == "delay":
        pattern |= {knob: getattr(config, knob) for knob in _OPENING}
    if modeling == "unroll" and config.flattening is not None:
        pattern["flattening"] = list(config.flattening)
    full_attention = config.past_context is None
    return {
        "lm_model": "transformer_lm",
        "codebooks_pattern": {"modeling": modeling, modeling: pattern},
        "transformer_lm": {
            "n_q": config.codebooks,
            "card": config.cardinality,
            "dim": config.width,
            "num_heads": config.heads,
            "num_layers": config.layers,
            "hidden_scale": _hidden_scale(config),
            "activation": config.activation,
            "dropout": config.dropout,
            "attention_dropout": config.attention_dropout,
            "norm": "layer_norm",
            "norm_first": config.norm == "before",
            "causal": True,
            "bias_attn": config.attention_bias,
            "bias_ff": config.feedforward_bias,
            "bias_proj": config.head_bias,
            "layer_scale": config.layer_scale,
            "qk_layer_norm": config.query_key_norm,
            "qk_layer_norm_cross": config.cross_query_key_norm,
            "kv_repeat": config.heads // (config.key_value_heads or config.heads),
            "past_context": config.past_context,
            "positional_embedding": {ours: theirs for theirs, ours in _POSITIONS.items()}[config.positions],
            "xpos": config.xpos,
            "max_period": config.position_period,
            "positional_scale": config.position_scale,
            "cross_attention": bool(config.cross),
            "memory_efficient": full_attention,
            "custom": not full_attention,
            "attention_as_float32": False,
            "checkpointing": "none",
            "emb_lr": None,
            "weight_init": None,
            "depthwise_init": None,
            "zero_bias_init": False,
            "two_step_cfg": False,
        },
        "fuser": {
            "cross_attention_pos_emb": config.cross_positions,
            "cross_attention_pos_emb_scale": config.cross_position_scale,
            **{theirs: [names[name] for name in getattr(config, field)] for theirs, field in FUSIONS.items()},
        },
    }


def _hidden_scale(config: LanguageModelConfig) -> int | float:
    """Return the width of the feed-forward layers as a multiple of the model's width. Half a channel is added to a
    fractional multiple, so that AudioCraft's rounding down does not lose a channel."""
    if config.expanded_width % config.width == 0:
        return config.expanded_width // config.width
    return (config.expanded_width + 0.5) / config.width


_LAYER = "transformer.layers.{}."
_NAMES = {
    "emb.{}.weight": "embeddings.{}.weight",
    "linears.{}.weight": "heads.{}.weight",
    "linears.{}.bias": "heads.{}.bias",
    "out_norm.weight": "out_norm.weight",
    "out_norm.bias": "out_norm.bias",
}
_LAYER_NAMES = {
    "self_attn.in_proj_weight": "self_attention.in_projection.weight",
    "self_attn.in_proj_bias": "self_attention.in_projection.bias",
    "self_attn.out_proj.weight": "self_attention.out_projection.weight",
    "self_attn.out_proj.bias": "self_attention.out_projection.bias",
    "self_attn.q_layer_norm.weight": "self_attention.query_norm.weight",
    "self_attn.q_layer_norm.bias": "self_attention.query_norm.bias",
    "self_attn.k_layer_norm.weight": "self_attention.key_norm.weight",
    "self_attn.k_layer_norm.bias": "self_attention.key_norm.bias",
    "cross_attention.in_proj_weight": "cross_attention.in_projection.weight",
    "cross_attention.in_proj_bias": "cross_attention.in_projection.bias",
    "cross_attention.out_proj.weight": "cross_attention.out_projection.weight",
    "cross_attention.out_proj.bias": "cross_attention.out_projection.bias",
    "cross_attention.q_layer_norm.weight": "cross_attention.query_norm.weight",
    "cross_attention.q_layer_norm.bias": "cross_attention.query_norm.bias",
    "cross_attention.k_layer_norm.weight": "cross_attention.key_norm.weight",
    "cross_attention.k_layer_norm.bias": "cross_attention.key_norm.bias",
    "norm1.weight": "self_norm.weight",
    "norm1.bias": "self_norm.bias",
    "norm_cross.weight": "cross_norm.weight",
    "norm_cross.bias": "cross_norm.bias",
    "norm2.weight": "feedforward_norm.weight",
    "norm2.bias": "feedforward_norm.bias",
    "linear1.weight": "expand.weight",
    "linear1.bias": "expand.bias",
    "linear2.weight": "contract.weight",
    "linear2.bias": "contract.bias",
    "layer_scale_1.scale": "self_scale",
    "layer_scale_cross.scale": "cross_scale",
    "layer_scale_2.scale": "feedforward_scale",
}
_PLAIN_ATTENTION = re.compile(r"(self_attn|cross_attention)\.mha\.")
_ROTARY_TABLE = re.compile(r"transformer\.(layers\.\d+\.self_attn\.)?rope\.(frequencies|xpos\.decay_rates)")
_NUMBER = re.compile(r"\.(\d+)\.")

_AUDIOCRAFT_NAMES = {ours: theirs for theirs, ours in _NAMES.items()}
_AUDIOCRAFT_NAMES |= {_LAYER + ours: _LAYER + theirs for theirs, ours in _LAYER_NAMES.items()}


def parameter_name_to_audiocraft(name: str) -> str:
    """Return the name in AudioCraft's `LMModel` of a parameter of this model.

    Raises:
        ValueError: the model has no such parameter.
    """
    number = _NUMBER.search(name)
    template = _AUDIOCRAFT_NAMES.get(_NUMBER.sub(".{}.", name, count=1))
    if template is None:
        raise ValueError(f"expected a parameter of a language model, got {name!r}")
    return template if number is None else template.format(number[1])


def parameters_in_audiocraft(state: Mapping[str, Shaped[Tensor, "..."]]) -> dict[str, Tensor]:
    """Return a state of AudioCraft's with the names of its `custom` attention, without tables that follow from the
    configuration."""
    return {
        _PLAIN_ATTENTION.sub(r"\1.", name): value for name, value in state.items() if not _ROTARY_TABLE.fullmatch(name)
    }


def decoder_state_to_audiocraft(
    state: Mapping[str, Shaped[Tensor, "..."]], config: LanguageModelConfig
) -> dict[str, Tensor]:
    """Return a language model's state with the names of AudioCraft's `LMModel`, complete for its `custom` or
    `memory_efficient` attention.

    Raises:
        ValueError: a name is not a parameter's.
    """
    tensors = {parameter_name_to_audiocraft(name): value for name, value in state.items()}
    if config.positions != "sinusoidal":
        device, size = torch.device("cpu"), config.width // config.heads
        for module in ("", *(f"layers.{layer}.self_attn." for layer in range(config.layers))):
            tensors[f"transformer.{module}rope.frequencies"] = rotation_frequencies(
                size, config.position_period, device
            )
            if config.xpos:
                tensors[f"transformer.{module}rope.xpos.decay_rates"] = xpos_decay_rates(size, device)
    return tensors
