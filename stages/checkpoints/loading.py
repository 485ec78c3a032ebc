"""A trained language model from a folder, in whichever form it is: this project's, Hugging Face's or AudioCraft's."""

from collections.abc import Callable
from pathlib import Path

import torch

from schemas import WeightsRef
from schemas.weights import LocalWeights
from stages.checkpoints.forms import form_of
from stages.checkpoints.native import TrainedModel, load_folder


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
        from stages.checkpoints.huggingface.checkpoint import read_hugging_face

        trained = read_hugging_face(folder)
    else:
        from stages.checkpoints.audiocraft.checkpoint import read_audiocraft

        trained = read_audiocraft(folder, weights)
    trained.model.to(device).eval()
    return trained
