"""A trained language model from a folder, in whichever form it is: this project's, Hugging Face's or AudioCraft's.

What lies in the folder says which form it is. Published MusicGen repositories hold Hugging Face's and AudioCraft's
files side by side; they are read as Hugging Face's, which bring tokenizer and codec along.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from schemas import WeightsRef
from schemas.weights import LocalWeights
from stages.checkpoints.folder import CONFIG, TrainedModel, load_folder

Form = Literal["segue", "hf", "audiocraft"]

HUGGING_FACE_TYPES = ("musicgen", "musicgen_melody")
"""`model_type` of the models of transformers that can be read."""

AUDIOCRAFT_FILE = "state_dict.bin"
"""What AudioCraft keeps its language model in."""


def form_of(folder: Path) -> Form:
    """The form of the checkpoint in a local folder.

    Raises:
        ValueError: there is none that can be read.
    """
    described = "no config.json"
    if (folder / CONFIG).is_file():
        try:
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"expected JSON in {folder / CONFIG}, got {error}") from error
        kind = config.get("model_type") if isinstance(config, dict) else None
        if kind in HUGGING_FACE_TYPES:
            return "hf"
        if isinstance(config, dict) and {"format", "model", "segment_seconds"} <= set(config):
            return "segue"
        described = "a config.json without a model" if kind is None else f"one of a model of type {kind!r}"
    if (folder / AUDIOCRAFT_FILE).is_file():
        return "audiocraft"
    if not folder.is_dir():
        described = "a file" if folder.exists() else "nothing there"
    raise ValueError(
        f"expected a language model's checkpoint in {folder} (Segue's, Hugging Face's of type "
        f"{' or '.join(HUGGING_FACE_TYPES)}, or AudioCraft's {AUDIOCRAFT_FILE}), got {described}"
    )


def load_checkpoint(
    folder: Path, weights: Callable[[WeightsRef], LocalWeights], device: str | torch.device = "cpu"
) -> TrainedModel:
    """Read a model in any of the forms; nothing in its files is run.

    Args:
        folder: the local folder, as `context.weights(reference).path` gives it.
        weights: finds a text encoder or codec that the checkpoint only names (`context.weights`).

    Raises:
        ValueError: there is no checkpoint, or one that this project's model cannot be.
        MissingWeights: what it names cannot be had.
    """
    form = form_of(folder)
    if form == "segue":
        return load_folder(folder, weights, device)
    if form == "hf":
        from stages.checkpoints.hugging_face import read_hugging_face

        trained = read_hugging_face(folder)
    else:
        from stages.checkpoints.audiocraft import read_audiocraft

        trained = read_audiocraft(folder, weights)
    trained.model.to(device).eval()
    return trained
