"""The names of a music model's parameters here and in transformers' `MusicgenForConditionalGeneration` and
`MusicgenMelodyForConditionalGeneration`.

Two things differ besides the names. transformers has a matrix each for queries, keys and values, where this project has
one. transformers also has no projection where the condition is as wide as the decoder, as if the projection were the
identity.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor
from transformers import MusicgenMelodyConfig

from model.chroma import PITCH_CLASSES
from stages.checkpoints.huggingface.configuration import HuggingFaceConfig
from stages.networks.loading import check_tensors

TEXT_PROJECTION, MELODY_PROJECTION = "enc_to_dec_proj", "audio_enc_to_dec_proj"
POSITION_TABLE = "decoder.model.decoder.embed_positions.weights"
"""The table of sinusoids, which early versions of transformers kept among the weights."""

_DECODER, _LAYER = "decoder.model.decoder.", r"language_model\.transformer\.(layers\.\d+\.)"
_NAMES = (
    (r"language_model\.embeddings\.(\d+\.weight)", _DECODER + r"embed_tokens.\1"),
    (r"language_model\.heads\.(\d+\.weight)", r"decoder.lm_heads.\1"),
    (r"language_model\.out_norm\.(weight|bias)", _DECODER + r"layer_norm.\1"),
    (_LAYER + r"self_norm\.(weight|bias)", _DECODER + r"\1self_attn_layer_norm.\2"),
    (_LAYER + r"cross_norm\.(weight|bias)", _DECODER + r"\1encoder_attn_layer_norm.\2"),
    (_LAYER + r"feedforward_norm\.(weight|bias)", _DECODER + r"\1final_layer_norm.\2"),
    (_LAYER + r"self_attention\.out_projection\.weight", _DECODER + r"\1self_attn.out_proj.weight"),
    (_LAYER + r"cross_attention\.out_projection\.weight", _DECODER + r"\1encoder_attn.out_proj.weight"),
    (_LAYER + r"expand\.weight", _DECODER + r"\1fc1.weight"),
    (_LAYER + r"contract\.weight", _DECODER + r"\1fc2.weight"),
    (r"description\.projection\.(weight|bias)", TEXT_PROJECTION + r".\1"),
    (r"chroma\.projection\.(weight|bias)", MELODY_PROJECTION + r".\1"),
)
_IN_PROJECTIONS = (
    (_LAYER + r"self_attention\.in_projection\.weight", _DECODER + r"\1self_attn."),
    (_LAYER + r"cross_attention\.in_projection\.weight", _DECODER + r"\1encoder_attn."),
)


def names_in_hugging_face(name: str) -> tuple[str, ...]:
    """Return the names in transformers of a `MusicModel`'s parameter: three for queries, keys and values, else one.

    Raises:
        ValueError: transformers has no such parameter.
    """
    for expression, replacement in _NAMES:
        if (match := re.fullmatch(expression, name)) is not None:
            return (match.expand(replacement),)
    for expression, replacement in _IN_PROJECTIONS:
        if (match := re.fullmatch(expression, name)) is not None:
            return tuple(f"{match.expand(replacement)}{part}_proj.weight" for part in "qkv")
    raise ValueError(f"expected a parameter that Hugging Face's MusicGen has, got {name!r}")


def weights_to_hugging_face(weights: Mapping[str, Shaped[Tensor, "..."]]) -> dict[str, Shaped[Tensor, "..."]]:
    """Return the weights of a `MusicModel`, without its text encoder's, by transformers' names. The tensors share
    memory with the weights where they can.

    Raises:
        ValueError: transformers has no such parameter.
    """
    tensors: dict[str, Tensor] = {}
    for name, weight in weights.items():
        hf_names = names_in_hugging_face(name)
        parts = weight.detach().cpu().chunk(len(hf_names))
        tensors |= {hf_name: part.contiguous() for hf_name, part in zip(hf_names, parts, strict=True)}
    return tensors


def weights_from_hugging_face(
    tensors: dict[str, Shaped[Tensor, "..."]], shapes: Mapping[str, torch.Size]
) -> dict[str, Shaped[Tensor, "..."]]:
    """Return the weights of a `MusicModel` from tensors with transformers' names. They are moved one by one, so that no
    weight is in memory twice.

    Args:
        tensors: tensors of decoder and projections, without text encoder and codec; emptied by the call.
        shapes: shapes of the model's weights, by its names.

    Raises:
        ValueError: tensors are missing, unknown or of other shapes.
    """
    names = {name: names_in_hugging_face(name) for name in shapes}
    parts: dict[str, torch.Size] = {}
    for name, hf_names in names.items():
        rows, *rest = shapes[name]
        parts |= dict.fromkeys(hf_names, torch.Size((rows // len(hf_names), *rest)))
    check_tensors(tensors, parts, "a MusicGen")
    weights = {}
    for name, hf_names in names.items():
        matrices = [tensors.pop(hf_name) for hf_name in hf_names]
        weights[name] = torch.cat(matrices) if len(matrices) > 1 else matrices[0]
    return weights


def _absent_projections(config: HuggingFaceConfig) -> dict[str, int]:
    """Return the projections that transformers leaves out because the condition is as wide as the decoder, with that
    width."""
    decoder: Any = config.decoder
    text: Any = config.text_encoder
    inputs = {TEXT_PROJECTION: text.d_model}
    if isinstance(config, MusicgenMelodyConfig):
        inputs[MELODY_PROJECTION] = PITCH_CLASSES
    return {name: width for name, width in inputs.items() if width == decoder.hidden_size}


def add_identities(tensors: dict[str, Tensor], config: HuggingFaceConfig) -> None:
    """Add the projections that transformers leaves out, as identities.

    Raises:
        ValueError: one of them is there.
    """
    for name, width in _absent_projections(config).items():
        if f"{name}.weight" in tensors:
            raise ValueError(f"expected no {name} between equal widths ({width}), got one")
        tensors |= {f"{name}.weight": torch.eye(width), f"{name}.bias": torch.zeros(width)}


def remove_identities(tensors: dict[str, Tensor], config: HuggingFaceConfig) -> None:
    """Remove the projections that transformers leaves out.

    Raises:
        ValueError: one of them is not the identity.
    """
    for name, width in _absent_projections(config).items():
        weight, bias = tensors.pop(f"{name}.weight"), tensors.pop(f"{name}.bias")
        if not torch.equal(weight, torch.eye(width)) or bias.any():
            raise ValueError(
                f"expected no projection of a condition as wide as the decoder ({width}), because Hugging Face's "
                f"MusicGen has no {name} between equal widths, got one"
            )
