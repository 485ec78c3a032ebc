"""In which form a checkpoint is, and what its model reads, told from its folder without loading it.

What lies in the folder says which form it is. Published MusicGen repositories hold Hugging Face's and AudioCraft's
files side by side; they are read as Hugging Face's, which bring tokenizer and codec along.
"""

import json
from pathlib import Path
from typing import Literal

from schemas.weights import AUDIOCRAFT_FILES
from stages.checkpoints.facts import CONFIG, read_facts

Form = Literal["segue", "hf", "audiocraft"]

HUGGING_FACE_CONDITIONS = {"musicgen": ("description",), "musicgen_melody": ("description", "chroma")}
"""`model_type` of the models of transformers that can be read -> what they read."""


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
        if isinstance(kind, str) and kind in HUGGING_FACE_CONDITIONS:
            return "hf"
        if isinstance(config, dict) and {"format", "model", "segment_seconds"} <= set(config):
            return "segue"
        described = "a config.json without a model" if kind is None else f"one of a model of type {kind!r}"
    if (folder / AUDIOCRAFT_FILES[0]).is_file():
        return "audiocraft"
    if not folder.is_dir():
        described = "a file" if folder.exists() else "nothing there"
    raise ValueError(
        f"expected a language model's checkpoint in {folder} (Segue's, Hugging Face's of type "
        f"{' or '.join(HUGGING_FACE_CONDITIONS)}, or AudioCraft's {AUDIOCRAFT_FILES[0]}), got {described}"
    )


def conditions_of(folder: Path) -> tuple[str, ...]:
    """Names of the conditions that the model of a checkpoint reads.

    Raises:
        ValueError: there is no checkpoint that can be read.
    """
    form = form_of(folder)
    if form == "audiocraft":  # which says it in the file of the weights alone, and so needs torch
        from stages.checkpoints.audiocraft.conditioners import conditioners_from_audiocraft
        from stages.checkpoints.audiocraft.package import read_settings

        return tuple(conditioners_from_audiocraft(read_settings(folder / AUDIOCRAFT_FILES[0])).names)
    if form == "hf":
        return HUGGING_FACE_CONDITIONS[json.loads((folder / CONFIG).read_text(encoding="utf-8"))["model_type"]]
    try:
        return read_facts(folder).model.conditions
    except ValueError as error:
        raise ValueError(f"expected a language model's checkpoint in {folder}, got {error}") from error
