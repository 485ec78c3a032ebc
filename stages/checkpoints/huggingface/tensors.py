"""The tensors of a folder in Hugging Face's form, read without running anything that is in its files.

They lie in one file or in several with an index beside them, as safetensors or, in older folders, as PyTorch's pickles,
which go through the restricted unpickler.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stages.networks.unpickling import load_pickle

SAFETENSORS = "model.safetensors"
FILES = (SAFETENSORS, f"{SAFETENSORS}.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Where weights may be; of several, the first counts."""


def read_tensors(folder: Path, prefix: str = "") -> dict[str, Tensor]:
    """All tensors whose names begin with `prefix`, by name, those of floating point as float32, on the CPU.

    Raises:
        ValueError: there are none, a file of them is missing or damaged, or names something other than tensors.
    """
    found = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if found is None:
        raise ValueError(f"expected weights in {folder} ({', '.join(FILES)}), got none")
    tensors: dict[str, Tensor] = {}
    for file in _shards(found) if found.suffix == ".json" else [found]:
        for name, value in _read(file, prefix).items():
            tensors[name] = value.float() if value.is_floating_point() else value
    return tensors


def _shards(index: Path) -> list[Path]:
    """The files that an index names, all of them beside it."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"expected an index with a weight_map in {index}, got {error}") from error
    for name in names:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise ValueError(f"expected every file that {index} names beside it, got {name!r}, which is not there")
    return [index.parent / name for name in names]


def _read(file: Path, prefix: str) -> Mapping[str, Tensor]:
    """The tensors of one file whose names begin with `prefix`."""
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, "pt") as opened:
                return {name: opened.get_tensor(name) for name in opened.keys() if name.startswith(prefix)}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"expected safetensors in {file}, got a file that cannot be read: {error}") from error
    tensors = load_pickle(file)
    if not isinstance(tensors, Mapping) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise ValueError(f"expected tensors by name in {file}, got something else")
    return {name: value for name, value in tensors.items() if name.startswith(prefix)}
