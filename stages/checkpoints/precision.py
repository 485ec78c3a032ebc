"""The precision that weights are kept in. Models are computed with as float32 whatever their files hold; a checkpoint
that is written in another form keeps the precision of the one that it is made of, unless another is asked for."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from schemas.weights import AUDIOCRAFT_FILES
from stages.networks.loading import SAFETENSORS_TYPES, load_pickle

StoredType = Literal["float32", "float16", "bfloat16"]
"""Precisions that weights can be kept in."""

CODEC = "audio_encoder."
"""What names of the codec's weights begin with in Hugging Face's form; it may be of another precision."""


def stored_type(folder: Path) -> StoredType:
    """Read the precision that most of a language model's weights have in the files of its folder, of any form.

    Raises:
        ValueError: a file of weights is damaged.
    """
    numbers: Counter[torch.dtype] = Counter()
    safetensors = sorted(folder.glob("*.safetensors"))
    for file in safetensors:
        numbers.update(_count_safetensors(file))
    for file in () if safetensors else sorted(folder.glob("*.bin")):
        if file.name != AUDIOCRAFT_FILES[1]:
            content = load_pickle(file)
            numbers.update(_count_tensors(content.get("best_state", content) if isinstance(content, dict) else {}))
    most = max(numbers, key=lambda dtype: numbers[dtype], default=torch.float32)
    return next((name for name in get_args(StoredType) if getattr(torch, name) == most), "float32")


def _count_safetensors(file: Path) -> Counter[torch.dtype]:
    """Count the numbers of each type of floating point, as the header of a safetensors file tells."""
    with open(file, "rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    numbers: Counter[torch.dtype] = Counter()
    for name, entry in header.items():
        if name != "__metadata__" and not name.startswith(CODEC) and entry["dtype"] in SAFETENSORS_TYPES:
            dtype, (first, end) = SAFETENSORS_TYPES[entry["dtype"]], entry["data_offsets"]
            if dtype.is_floating_point:
                numbers[dtype] += (end - first) // dtype.itemsize
    return numbers


def _count_tensors(tensors: Mapping[str, Any]) -> Counter[torch.dtype]:
    numbers: Counter[torch.dtype] = Counter()
    for name, value in tensors.items():
        if isinstance(value, Tensor) and value.is_floating_point() and not name.startswith(CODEC):
            numbers[value.dtype] += value.numel()
    return numbers


@dataclass(frozen=True)
class Precision:
    """How weights are written."""

    stored: StoredType = "float32"
    rounds: bool = False
    """Whether values are rounded to it, as somebody asked for it. Otherwise a tensor that would change stays float32:
    the codec of a model in half precision, say, that came as float32."""

    def of(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Bring tensors of floating point to this precision; the others stay as they are.

        Raises:
            ValueError: one is to be rounded and has a value that is too large.
        """
        return {
            name: self._kept(name, value) if value.is_floating_point() else value for name, value in tensors.items()
        }

    def _kept(self, name: str, value: Tensor) -> Tensor:
        dtype = getattr(torch, self.stored)
        kept: Tensor = value.to(dtype)
        if not self.rounds and not torch.equal(kept.to(value.dtype), value):
            return value
        if not bool(kept.isfinite().all()) and bool(value.isfinite().all()):
            raise ValueError(
                f"expected weights of at most {torch.finfo(dtype).max:g}, which {self.stored} can hold, got "
                f"{float(value.abs().max()):g} in {name}: keep them as float32 or bfloat16 (--dtype)"
            )
        return kept
