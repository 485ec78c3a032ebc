"""Adapters: low-rank updates of a model's matrices (LoRA, arXiv:2106.09685) in peft's form, read and added.

An adapter is a folder with `adapter_config.json` and `adapter_model.safetensors`, as peft writes it. Its modules have
this project's names, or those of transformers' MusicGen, of the whole model or of the decoder alone. transformers has a
matrix each for queries, keys and values; here they are rows of one matrix. No code in the files is run. Several
adapters may be added to one model, each with its own strength: W + Σ strength · scale · B A. Adapters are removed
without a trace.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from model.music_model import MusicModel
from stages.checkpoints.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from stages.checkpoints.huggingface.names import names_in_hugging_face
from stages.networks.loading import read_safetensors

_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
"""peft's names of the two factors of a module's update."""

REFUSED = {
    "use_dora": "separate magnitudes (DoRA)",
    "fan_in_fan_out": "transposed matrices",
    "modules_to_save": "whole modules in addition to the updates",
    "layer_replication": "repeated layers",
    "lora_bias": "biases in the updates",
    "target_parameters": "parameters that are not a module's weight",
    "trainable_token_indices": "single embeddings",
}
"""Features of peft that compute something else than this module does, by field, in words."""


@dataclass(frozen=True, eq=False)
class LowRankUpdate:
    """An update that is added to some rows of a matrix: scale · B A."""

    rows: slice
    """The rows that the update is added to."""
    down: Float[Tensor, "R X"]
    """The factor A."""
    up: Float[Tensor, "Y R"]
    """The factor B."""
    scale: float


Adapter = Mapping[str, Sequence[LowRankUpdate]]
"""Updates, by the name of the parameter of a `MusicModel` that they are added to."""


def read_adapter(folder: Path, model: MusicModel) -> Adapter:
    """Read an adapter for a model.

    Args:
        model: the model that the adapter is to be added to, or another of its architecture.

    Raises:
        ValueError: the folder has no adapter, or one that is not a sum of such updates or belongs to another model.
    """
    settings = _read_settings(folder)
    factors: dict[str, dict[str, Tensor]] = {}
    for name, tensor in read_safetensors(folder / ADAPTER_WEIGHTS).items():
        match = _TENSOR.fullmatch(name)
        if match is None:
            raise ValueError(f"expected only low-rank updates of linear layers in {folder}, got {name}")
        factors.setdefault(match["module"], {})[match["factor"]] = tensor
    rows_by_module, updates = _rows_by_module(model), dict[str, list[LowRankUpdate]]()
    for module, pair in factors.items():
        target = next((rows_by_module[name] for name in _spellings(module) if name in rows_by_module), None)
        if target is None:
            raise ValueError(f"expected only updates of layers that the model has in {folder}, got one of {module}")
        if set(pair) != {"A", "B"}:
            raise ValueError(f"expected both factors of {module} in {folder}, got {' and '.join(pair)}")
        down, up = pair["A"], pair["B"]
        rows, columns = target.rows.stop - target.rows.start, target.columns
        if down.ndim != 2 or up.shape != (rows, len(down)) or down.shape[1] != columns:
            raise ValueError(
                f"expected an update of a matrix {rows} × {columns} for {module} in {folder}, got factors of shapes "
                f"{tuple(up.shape)} and {tuple(down.shape)}: it belongs to another model"
            )
        scale = _scale(settings, module, len(down))
        updates.setdefault(target.parameter, []).append(LowRankUpdate(target.rows, down, up, scale))
    if not updates:
        raise ValueError(f"expected low-rank updates in {folder}, got none")
    return updates


def _read_settings(folder: Path) -> Mapping[str, Any]:
    """Read peft's settings of an adapter, and refuse features that are not supported."""
    try:
        settings = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"expected an adapter of peft in {folder}, got {error}") from error
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        kind = settings.get("peft_type") if isinstance(settings, dict) else settings
        raise ValueError(f"expected an adapter of type LORA in {folder}, got {kind!r}")
    for field, feature in REFUSED.items():
        if settings.get(field):
            raise ValueError(f"expected only low-rank updates in {folder}, got {feature} ({field})")
    if settings.get("bias", "none") != "none":
        raise ValueError(f"expected only low-rank updates in {folder}, got biases (bias = {settings['bias']!r})")
    return settings


def _scale(settings: Mapping[str, Any], module: str, rank: int) -> float:
    """Return the number that the product of a module's two factors is multiplied by (arXiv:2106.09685, 4.1; with
    `use_rslora` arXiv:2312.03732)."""
    alphas: Mapping[str, float] = settings.get("alpha_pattern") or {}
    # peft's own rule (`get_pattern_key`): the end of the module's name must match the expression.
    module_alpha = next((alpha for name, alpha in alphas.items() if re.fullmatch(rf"(.*\.)?({name})", module)), None)
    alpha = float(settings["lora_alpha"] if module_alpha is None else module_alpha)
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


@dataclass(frozen=True)
class _ModuleRows:
    """The rows of a model's parameter that are the weight of a module."""

    parameter: str
    rows: slice
    columns: int


def _rows_by_module(model: MusicModel) -> dict[str, _ModuleRows]:
    """Return the places of a model's matrices, by the names of the modules here and in transformers."""
    rows_by_module = {}
    for name, value in model.named_parameters():
        if value.ndim != 2 or not name.endswith(".weight") or ".embeddings." in name or ".encoder." in name:
            continue
        height, columns = value.shape
        rows_by_module[name.removesuffix(".weight")] = _ModuleRows(name, slice(0, height), columns)
        try:
            hf_names = names_in_hugging_face(name)
        except ValueError:
            continue  # transformers' MusicGen has no such part
        rows_per_name = height // len(hf_names)
        for number, hf_name in enumerate(hf_names):
            rows = slice(number * rows_per_name, (number + 1) * rows_per_name)
            rows_by_module[hf_name.removesuffix(".weight")] = _ModuleRows(name, rows, columns)
    return rows_by_module


def _spellings(module: str) -> tuple[str, ...]:
    """Return the names that a module may have in the whole model: adapters of the decoder alone leave out the decoder's
    name."""
    return module, f"language_model.{module}", f"decoder.{module}"


@contextmanager
def adapted(model: MusicModel, adapters: Sequence[tuple[Adapter, float]]) -> Iterator[None]:
    """Return a context in which adapters are added to a model, each with its strength. Afterwards the weights are as
    before, bit for bit.

    The sums are computed in float32 in the order of `adapters`; equal adapters and strengths give equal weights.
    """
    parameters = dict(model.named_parameters())
    before = {name: parameters[name].data for name in {name for adapter, _ in adapters for name in adapter}}
    try:
        for name, weight in before.items():
            summed = weight.clone()
            for adapter, strength in adapters:
                for update in adapter.get(name, ()):
                    product = update.up.to(weight.device) @ update.down.to(weight.device)
                    summed[update.rows] += (strength * update.scale) * product
            parameters[name].data = summed
        yield
    finally:
        for name, weight in before.items():
            parameters[name].data = weight
