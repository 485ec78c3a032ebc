"""What AudioCraft 1.3's `LMModel` calls the parameters of a language model, and what they are called here.

Both have the same shapes, so that a state is carried over by its names alone. Two things differ between AudioCraft's
own models: attention that is PyTorch's keeps its parameters under `mha`, and rotary positions keep their tables, which
follow from the configuration, in the state.
"""

import re
from collections.abc import Mapping

import torch
from jaxtyping import Shaped
from torch import Tensor

from model.lm.config import LanguageModelConfig
from model.lm.positions import fading_rates, rotation_frequencies

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

_TO_OURS = _NAMES | {_LAYER + theirs: _LAYER + ours for theirs, ours in _LAYER_NAMES.items()}
_TO_THEIRS = {ours: theirs for theirs, ours in _TO_OURS.items()}


def name_from_audiocraft(name: str) -> str:
    """This model's name of a parameter that AudioCraft's `LMModel` calls `name`; ValueError for an unknown one."""
    found = _translated(_PLAIN_ATTENTION.sub(r"\1.", name), _TO_OURS)
    if found is None:
        raise ValueError(f"expected a parameter of AudioCraft's language model, got {name!r}")
    return found


def name_to_audiocraft(name: str) -> str:
    """What AudioCraft's `LMModel` calls the parameter that is `name` here; ValueError for an unknown one."""
    found = _translated(name, _TO_THEIRS)
    if found is None:
        raise ValueError(f"expected a parameter of a language model, got {name!r}")
    return found


def state_from_audiocraft(state: Mapping[str, Shaped[Tensor, "..."]]) -> dict[str, Tensor]:
    """The state of AudioCraft's `LMModel` (without its conditioners) under this model's names.

    The tables of rotary positions are left out, as they follow from the configuration. ValueError for an unknown name.
    """
    return {name_from_audiocraft(name): value for name, value in state.items() if not _ROTARY_TABLE.fullmatch(name)}


def state_to_audiocraft(state: Mapping[str, Shaped[Tensor, "..."]], config: LanguageModelConfig) -> dict[str, Tensor]:
    """A language model's state under the names of AudioCraft's `LMModel`, with all that it expects to find.

    Its `custom` or `memory_efficient` attention is meant. ValueError for a name that is no parameter's.
    """
    found = {name_to_audiocraft(name): value for name, value in state.items()}
    if config.positions != "sinusoidal":
        device, size = torch.device("cpu"), config.width // config.heads
        for place in ("", *(f"layers.{layer}.self_attn." for layer in range(config.layers))):
            found[f"transformer.{place}rope.frequencies"] = rotation_frequencies(size, config.position_period, device)
            if config.xpos:
                found[f"transformer.{place}rope.xpos.decay_rates"] = fading_rates(size, device)
    return found


def _translated(name: str, names: Mapping[str, str]) -> str | None:
    """`name` by a dictionary in which its number is left open."""
    template = names.get(_NUMBER.sub(".{}.", name, count=1))
    number = _NUMBER.search(name)
    return None if template is None else template.format(number[1]) if number is not None else template
