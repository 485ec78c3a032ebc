"""The precision that weights are stored in.

Models are loaded as float32 whatever their files hold. A checkpoint that is converted to another form keeps the
precision of its source, unless another is asked for.
"""

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
"""Precisions that weights can be stored in."""

CODEC = "audio_encoder."
"""Prefix of the codec's weights in Hugging Face's form; the codec may have another precision than the language
model."""


def stored_type(folder: Path) -> StoredType:
    """Return the precision of most of a language model's weights in the files of its folder, in any form.

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
    commonest = max(numbers, key=lambda dtype: numbers[dtype], default=torch.float32)
    return next((name for name in get_args(StoredType) if getattr(torch, name) == commonest), "float32")


def _count_safetensors(file: Path) -> Counter[torch.dtype]:
    """Count the numbers of each floating-point type, from the header of a safetensors file."""
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
    """Whether values are rounded to the precision, because the user asked for it. Otherwise a tensor that rounding
    would change stays as it is: for example, the float32 codec of a model in half precision."""

    def of(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Convert floating-point tensors to this precision; other tensors stay as they are.

        Raises:
            ValueError: a tensor is to be rounded and has a value that the precision cannot hold.
        """
        return {
            name: self._converted(name, value) if value.is_floating_point() else value
            for name, value in tensors.items()
        }

    def _converted(self, name: str, value: Tensor) -> Tensor:
        """Return a tensor in this precision, or as it is if it may not be rounded."""
        dtype = getattr(torch, self.stored)
        converted: Tensor = value.to(dtype)
        if not self.rounds and not torch.equal(converted.to(value.dtype), value):
            return value
        if not bool(converted.isfinite().all()) and bool(value.isfinite().all()):
            raise ValueError(
                f"expected weights of at most {torch.finfo(dtype).max:g}, which {self.stored} can hold, got "
                f"{float(value.abs().max()):g} in {name}: keep them as float32 or bfloat16 (--dtype)"
            )
        return converted
