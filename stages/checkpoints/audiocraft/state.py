"""The tensors of AudioCraft's language model and conditioners by name (`audiocraft/modules/conditioners.py`, version
1.3.0), into a music model and out of it. The decoder's own names are in `stages.checkpoints.audiocraft.names`.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from model.music_model import MusicModel
from stages.checkpoints.audiocraft.conditions import MELODY_WINDOW
from stages.checkpoints.audiocraft.names import name_to_audiocraft, state_from_audiocraft, state_to_audiocraft

_PROVIDER = "condition_provider.conditioners."
_CHROMA_TABLE = re.compile(rf"{re.escape(_PROVIDER)}\w+\.chroma\.(spec\.window|fbanks)")
"""Tables that follow from the configuration, and lie in the state all the same."""

_CONDITIONER_NAMES = (
    (r"projection\.", "output_proj."),
    (r"table\.", "embed."),
    (r"encoder\.", "t5."),
    (r"quantizer\.layers\.(\d+)\.codebook\.", r"quantizer.vq.layers.\1._codebook."),
)
"""How a name within a conditioner begins here, and there."""


def load_state(model: MusicModel, state: Mapping[str, Tensor], places: Mapping[str, str]) -> None:
    """Set all weights of a model from AudioCraft's state.

    Args:
        state: tensors by AudioCraft's names.
        places: the name there of each condition here.

    Raises:
        ValueError: tensors that are missing, unknown or of another shape, by name.
    """
    own = model.weights()
    theirs = {name: _name(name, places) for name in own}
    ours = {there: here for here, there in theirs.items()}
    decoder = {name: value for name, value in state.items() if not name.startswith(_PROVIDER)}
    found = {f"language_model.{name}": value for name, value in state_from_audiocraft(decoder).items()}
    for name, value in state.items():
        if name.startswith(_PROVIDER) and not _CHROMA_TABLE.fullmatch(name):
            found[ours.get(name, name)] = value
    if missing := sorted(theirs[name] for name in set(own) - set(found)):
        raise ValueError(f"expected all weights of the language model, got none of {missing}")
    if unknown := sorted(_known_there(name) for name in set(found) - set(own)):
        raise ValueError(f"expected weights that the configuration speaks of, got {unknown}")
    for name, value in found.items():
        if value.shape != own[name].shape:
            raise ValueError(f"expected {theirs[name]} {list(own[name].shape)}, got {list(value.shape)}")
    model.load_weights(found)


def _known_there(name: str) -> str:
    """The name in AudioCraft's file of a tensor that this model does not have."""
    decoder = "language_model."
    return name_to_audiocraft(name.removeprefix(decoder)) if name.startswith(decoder) else name


def state_of(model: MusicModel, places: Mapping[str, str], text_encoder: bool) -> dict[str, Tensor]:
    """The state of AudioCraft's language model, with all that its strict loading expects.

    Args:
        places: the name there of each condition here.
        text_encoder: whether a text encoder that did not learn is to be in it, too.
    """
    state = state_to_audiocraft(model.language_model.state_dict(), model.config.language_model)
    own = model.state_dict() if text_encoder else model.weights()
    state |= {_name(name, places): value for name, value in own.items() if not name.startswith("language_model.")}
    if model.chroma is not None:
        state[f"{_PROVIDER}{places['chroma']}.chroma.spec.window"] = torch.hann_window(MELODY_WINDOW)
    return state


def _name(name: str, places: Mapping[str, str]) -> str:
    """AudioCraft's name of an entry of a music model's state."""
    condition, _, inside = name.partition(".")
    if condition == "language_model":
        return name_to_audiocraft(inside)
    if condition == "fields":
        condition, _, inside = inside.partition(".")
    for here, there in _CONDITIONER_NAMES:
        if re.match(here, inside):
            return f"{_PROVIDER}{places[condition]}.{re.sub(here, there, inside, count=1)}"
    raise AssertionError(f"no name in AudioCraft for {name}")
