"""An adapter that was learned here, written as one of transformers' MusicGen, so that `peft.PeftModel.from_pretrained`
reads it onto the model that training began with.

One matrix here holds queries, keys and values, and transformers has three: each gets its own rows of B, and the whole
of A. Nothing is rounded.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import peft
import torch
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file

from model.music_model import MusicModel
from schemas.storage.local_disk import new_folder
from stages.checkpoints.adapter_files import adapter_folder
from stages.checkpoints.adapters import Adapter, LowRankUpdate, read_adapter
from stages.checkpoints.huggingface.names import names_in_hugging_face
from stages.checkpoints.loading import load_checkpoint
from stages.checkpoints.native import FindWeights


def export_adapter(folder: Path, destination: Path, weights: FindWeights, base_model: str | None = None) -> int:
    """Write the updates of a checkpoint as an adapter of transformers' MusicGen, and return how many numbers it has.

    Args:
        folder: the folder of a checkpoint that learned by low-rank updates alone.
        destination: a local folder that does not exist yet, or is empty.
        weights: finds the weights that the checkpoint names.
        base_model: hub id of the model that the updates belong to; None where it has none.

    Raises:
        ValueError: the checkpoint has no updates, or one of a matrix that transformers' MusicGen lacks; or
            `destination` is taken.
        MissingWeights: weights that the checkpoint names cannot be fetched.
    """
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise ValueError(f"expected a new or empty folder to write to, got {destination}, which is neither")
    adapter = adapter_folder(folder)
    if adapter is None:
        raise ValueError(f"expected a checkpoint that learned by low-rank updates (train.lora), got {folder}")
    model = load_checkpoint(folder, weights).model
    updates = _updates_by_module(read_adapter(adapter, model), model)
    with new_folder(destination.absolute()) as new_path:
        _settings(updates, base_model).save_pretrained(str(new_path))
        tensors = {}
        for module, update in updates.items():
            tensors[f"base_model.model.{module}.lora_A.weight"] = update.down.contiguous()
            tensors[f"base_model.model.{module}.lora_B.weight"] = update.up.contiguous()
        # Three matrices share an A; safetensors needs a copy for each.
        tensors = {name: value.clone() for name, value in tensors.items()}
        save_file(tensors, new_path / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
    return sum(value.numel() for value in tensors.values())


def _updates_by_module(adapter: Adapter, model: MusicModel) -> dict[str, LowRankUpdate]:
    """Return one update for each of transformers' matrices, by the name of its module."""
    parameters = dict(model.named_parameters())
    modules = {}
    for name, updates in adapter.items():
        hf_names = names_in_hugging_face(name)
        rows_per_name = len(parameters[name]) // len(hf_names)
        for number, hf_name in enumerate(hf_names):
            part = _updates_of_rows(updates, slice(number * rows_per_name, (number + 1) * rows_per_name))
            if part is not None:
                modules[hf_name.removesuffix(".weight")] = part
    return modules


def _updates_of_rows(updates: Sequence[LowRankUpdate], rows: slice) -> LowRankUpdate | None:
    """Return the updates of some rows of a matrix as one update; None where there is none."""
    overlapping = [update for update in updates if update.rows.start < rows.stop and rows.start < update.rows.stop]
    if not overlapping:
        return None
    ups, scale = [], overlapping[0].scale
    for update in overlapping:
        up = update.up.new_zeros(rows.stop - rows.start, update.up.shape[1])
        first, last = max(rows.start, update.rows.start), min(rows.stop, update.rows.stop)
        up[first - rows.start : last - rows.start] = update.up[first - update.rows.start : last - update.rows.start]
        ups.append(up * (update.scale / scale))
    return LowRankUpdate(rows, torch.cat([update.down for update in overlapping]), torch.cat(ups, dim=1), scale)


def _settings(updates: dict[str, LowRankUpdate], base_model: str | None) -> peft.LoraConfig:
    """Return peft's settings for updates: the commonest rank and scale, and the modules that differ from them."""
    ranks = {module: len(update.down) for module, update in updates.items()}
    alphas = {module: _whole(update.scale * ranks[module]) for module, update in updates.items()}
    (rank, _), (alpha, _) = Counter(ranks.values()).most_common(1)[0], Counter(alphas.values()).most_common(1)[0]
    return peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        target_modules=list(updates),
        rank_pattern={re.escape(module): own for module, own in ranks.items() if own != rank},
        alpha_pattern={re.escape(module): own for module, own in alphas.items() if own != alpha},
        base_model_name_or_path=base_model,
        inference_mode=True,
    )


def _whole(number: float) -> float:
    """Return a whole number as an integer, other numbers as they are, so that the file shows it as people write it."""
    return int(number) if number == int(number) else number
