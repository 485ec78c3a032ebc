"""Low-rank adaptation of a language model (LoRA, arXiv:2106.09685), by `peft`.

During training, updates are kept beside the frozen matrices of the decoder. Before the checkpoint is written they are
merged into the matrices, so that every reader of the checkpoint gets a plain model. The updates alone are written
beside it in peft's own form.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraLayer
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file
from torch import nn

from model.music_model import MusicModel
from model.optim.config import LoraConfig
from stages.checkpoints.adapter_files import adapter_folder
from stages.checkpoints.adapters import read_adapter
from stages.checkpoints.disk_errors import disk_errors

DECODER = "language_model."
"""Prefix of the names of the decoder's parameters in the model."""

LAYERS = {
    "attention": r"self_attention\.(in|out)_projection",
    "cross_attention": r"cross_attention\.(in|out)_projection",
    "feedforward": r"(expand|contract)",
}
"""The matrices of a decoder layer, by the kinds that `LoraConfig.targets` names."""


def add_adapter(model: MusicModel, config: LoraConfig) -> None:
    """Freeze the model, and add new low-rank updates to its decoder. The conditioners stay free if `config` says that
    they learn.

    One factor of each update is zero, so the model's predictions do not change at first. The other factor is drawn from
    torch's generator.

    Raises:
        ValueError: the decoder has none of the layers that are to be adapted.
    """
    targets = "|".join(LAYERS[kind] for kind in config.targets)
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=rf"transformer\.layers\.\d+\.({targets})",
    )
    if config.targets == ("cross_attention",) and not model.config.language_model.cross:
        raise ValueError(
            "expected train.lora.targets among the layers of the decoder, got cross_attention for one without it"
        )
    if not config.conditioners:
        model.requires_grad_(False)
    peft.inject_adapter_in_model(settings, model.language_model)  # freezes the rest of the decoder


def continue_adapter(model: MusicModel, config: LoraConfig, folder: Path) -> None:
    """Freeze the model as `add_adapter` does, and start its updates from those of an existing adapter.

    An adapter may have separate updates of queries, keys and values, which share one matrix here. They become one
    update: their factors side by side, each with its own rows, so that its rank is the sum of theirs. The model begins
    with the predictions that the adapter gives it.

    Args:
        config: its ranks, scales and targets are not used; the adapter's are.
        folder: the folder of the adapter, or of a checkpoint that has one inside.

    Raises:
        ValueError: there is no adapter of this model's decoder.
    """
    inner_folder = adapter_folder(folder)
    adapter = read_adapter(folder if inner_folder is None else inner_folder, model)
    if outside := sorted(name for name in adapter if not name.startswith(DECODER)):
        raise ValueError(f"expected only updates of the decoder in {folder}, got {', '.join(outside)}")
    modules = {name.removeprefix(DECODER).removesuffix(".weight"): updates for name, updates in adapter.items()}
    ranks = {module: sum(len(update.down) for update in updates) for module, updates in modules.items()}
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules="|".join(re.escape(module) for module in modules),
        rank_pattern={re.escape(module): rank for module, rank in ranks.items()},
        # peft has one scale for a module: that of the first update. Other scales are multiplied into the factors.
        alpha_pattern={re.escape(name): updates[0].scale * ranks[name] for name, updates in modules.items()},
    )
    if not config.conditioners:
        model.requires_grad_(False)
    peft.inject_adapter_in_model(settings, model.language_model)
    with torch.no_grad():
        for name, updates in modules.items():
            layer: Any = model.language_model.get_submodule(name)
            down, up = (factors["default"].weight for factors in (layer.lora_A, layer.lora_B))
            up.zero_()
            first = 0
            for update in updates:
                update_ranks = slice(first, first + len(update.down))
                down[update_ranks] = update.down
                up[update.rows, update_ranks] = update.up * (update.scale / updates[0].scale)
                first = update_ranks.stop


@disk_errors()
def save_adapter(model: MusicModel, folder: Path) -> None:
    """Write the updates of an adapted model into a new folder, as `peft.PeftModel.from_pretrained` reads them for the
    decoder (`MusicModel.language_model`) that training began with."""
    folder.mkdir()
    settings: Any = model.language_model.peft_config
    settings["default"].save_pretrained(str(folder))
    updates = peft.get_peft_model_state_dict(model.language_model)
    tensors = {f"base_model.model.{name}": value.detach().cpu().contiguous() for name, value in updates.items()}
    save_file(tensors, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})


@contextmanager
def merged(model: MusicModel) -> Iterator[None]:
    """Return a context in which a model is a plain one, with its updates added to its matrices. Afterwards everything
    is as before, bit for bit."""
    decoder = model.language_model
    layers: list[tuple[str, Any]] = [
        (name, module) for name, module in decoder.named_modules() if isinstance(module, LoraLayer)
    ]
    before = {name: module.get_base_layer().weight.data for name, module in layers}
    try:
        for name, module in layers:
            with torch.no_grad():
                module.get_base_layer().weight.data = before[name] + module.get_delta_weight("default")
            _replace(decoder, name, module.get_base_layer())
        yield
    finally:
        for name, module in layers:
            module.get_base_layer().weight.data = before[name]
            _replace(decoder, name, module)


def _replace(decoder: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the module that has a dotted name."""
    parent, _, child = name.rpartition(".")
    setattr(decoder.get_submodule(parent), child, module)


def merge_adapter(model: MusicModel) -> None:
    """Add the updates to their matrices for good, and leave a plain model."""
    decoder = model.language_model
    adapted = [(name, module) for name, module in decoder.named_modules() if isinstance(module, LoraLayer)]
    for name, module in adapted:
        module.merge(safe_merge=True)
        _replace(decoder, name, module.get_base_layer())
    del decoder.peft_config
