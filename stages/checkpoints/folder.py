"""A trained language model as a folder, and back.

```
model.safetensors   the averaged weights of language model and conditioners (and of a text encoder that learned too)
config.json         what the model is, and what its codes and conditions came from
text_encoder/       configuration and tokenizer of the text encoder
```

The weights of a frozen text encoder are not copied: `config.json` names them with their digest.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase, T5Config, T5EncoderModel

from model.conditioning.configuration import MusicModelConfig
from model.music_model import MusicModel
from schemas import Config, WeightsRef
from schemas.weights import LocalWeights

WEIGHTS, CONFIG, TEXT_ENCODER = "model.safetensors", "config.json", "text_encoder"


class CheckpointFacts(Config):
    """What a checkpoint says of itself beside its weights (`config.json`)."""

    format: int = 1
    """Raised when the folder's layout changes."""
    model: MusicModelConfig
    """The network; `model.language_model` has the codec's codebooks and cardinality."""
    frame_rate: float
    """Frames of codes a second."""
    segment_seconds: float
    """Length of the windows that the model was trained on."""
    text_encoder: str | None
    """Reference of a frozen text encoder; None where it learned too, so that its weights are here, or there is none."""
    text_encoder_digest: str | None
    """Digest of the files of the text encoder that training began with; None for a model without text."""
    versions: Mapping[str, str]
    """The versions of the tables that it learned from: tracks, chroma, clap and tokens."""


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A language model in evaluation mode, and the facts about it."""

    model: MusicModel
    facts: CheckpointFacts


def save_checkpoint(folder: Path, model: MusicModel, facts: CheckpointFacts) -> None:
    """Write a model into an existing folder, with the weights that it has now."""
    weights = {name: value.detach().cpu().clone() for name, value in model.weights().items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(facts.model_dump_json(indent=2) + "\n", encoding="utf-8")
    if model.description is not None:
        model.description.encoder.config.save_pretrained(folder / TEXT_ENCODER)
        model.description.tokenizer.save_pretrained(folder / TEXT_ENCODER)


def load_checkpoint(
    folder: Path, weights: Callable[[WeightsRef], LocalWeights], device: str | torch.device = "cpu"
) -> TrainedModel:
    """Read a model that `save_checkpoint` wrote.

    Args:
        folder: the local folder, as `context.weights(reference).path` gives it.
        weights: finds a frozen text encoder (`context.weights`).

    Raises:
        ValueError: the folder is not such a checkpoint, or its text encoder is no longer the one it was trained with.
        MissingWeights: its text encoder cannot be had.
    """
    try:
        facts = CheckpointFacts.model_validate_json((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise ValueError(f"expected a language model's checkpoint in {folder}, got {error}") from error
    encoder, tokenizer = None, None
    if facts.model.description is not None:
        tokenizer = AutoTokenizer.from_pretrained(folder / TEXT_ENCODER)
        if facts.model.description.finetune:
            encoder = T5EncoderModel(T5Config.from_pretrained(folder / TEXT_ENCODER))
        else:
            reference = facts.text_encoder or ""
            found = weights(WeightsRef(reference))
            if found.digest != facts.text_encoder_digest:
                raise ValueError(
                    f"expected the text encoder {reference} with digest {facts.text_encoder_digest}, as {folder.name} "
                    f"was trained with, got {found.digest}"
                )
            encoder = load_text_encoder(found.path)[0]
    model = MusicModel(facts.model, encoder, tokenizer)
    model.load_weights(load_file(folder / WEIGHTS))
    return TrainedModel(model.to(device).eval(), facts)


def load_text_encoder(path: Path) -> tuple[T5EncoderModel, PreTrainedTokenizerBase]:
    """A T5 encoder and its tokenizer from a local folder.

    Raises:
        ValueError: there is no such encoder.
    """
    try:
        return T5EncoderModel.from_pretrained(path, dtype=torch.float32), AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"expected a T5 encoder and its tokenizer in {path}, got {error}") from error
