"""What transformers' `MusicgenForConditionalGeneration` and its sibling for melodies call the parameters of a music
model, and what they are called here.

Two things differ beside the names: queries, keys and values have a matrix each there, and one in common here; and
there is no projection there where the text encoder is as wide as the decoder, as if it were the identity.
"""

import re
from collections.abc import Mapping

import torch
from jaxtyping import Shaped
from torch import Tensor

TEXT_PROJECTION, MELODY_PROJECTION = "enc_to_dec_proj", "audio_enc_to_dec_proj"
POSITION_TABLE = "decoder.model.decoder.embed_positions.weights"
"""The sinusoids, which early versions of transformers kept among the weights."""

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
    """What the parameter `name` of a `MusicModel` is called there: three for queries, keys and values, else one.

    Raises ValueError for a parameter that has no place there.
    """
    for expression, replacement in _NAMES:
        if (found := re.fullmatch(expression, name)) is not None:
            return (found.expand(replacement),)
    for expression, replacement in _IN_PROJECTIONS:
        if (found := re.fullmatch(expression, name)) is not None:
            return tuple(f"{found.expand(replacement)}{part}_proj.weight" for part in "qkv")
    raise ValueError(f"expected a parameter of a MusicGen as Hugging Face's, got {name!r}")


def to_hugging_face(weights: Mapping[str, Shaped[Tensor, "..."]]) -> dict[str, Shaped[Tensor, "..."]]:
    """The weights of a `MusicModel`, less its text encoder's, by their names there, in the same memory.

    Raises ValueError for a parameter that has no place there.
    """
    tensors: dict[str, Tensor] = {}
    for name, weight in weights.items():
        theirs = names_in_hugging_face(name)
        parts = weight.detach().cpu().chunk(len(theirs))
        tensors |= {their: part.contiguous() for their, part in zip(theirs, parts, strict=True)}
    return tensors


def from_hugging_face(
    tensors: Mapping[str, Shaped[Tensor, "..."]], shapes: Mapping[str, torch.Size]
) -> dict[str, Shaped[Tensor, "..."]]:
    """Weights of a `MusicModel` from tensors by their names there.

    Args:
        tensors: those of decoder and projections, not of text encoder and codec.
        shapes: what the model needs, by its names.

    Raises:
        ValueError: tensors are missing, unknown or of other shapes.
    """
    names = {name: names_in_hugging_face(name) for name in shapes}
    wanted = {their for theirs in names.values() for their in theirs}
    if wanted != set(tensors):
        missing, unknown = sorted(wanted - set(tensors)), sorted(set(tensors) - wanted)
        raise ValueError(f"expected the weights of a MusicGen, got {missing} missing and {unknown} unknown")
    weights: dict[str, Tensor] = {}
    for name, theirs in names.items():
        rows, *rest = shapes[name]
        part = torch.Size((rows // len(theirs), *rest))
        for their in theirs:
            if tensors[their].shape != part:
                raise ValueError(f"expected {their} of shape {list(part)}, got {list(tensors[their].shape)}")
        weights[name] = torch.cat([tensors[their] for their in theirs]) if len(theirs) > 1 else tensors[theirs[0]]
    return weights
