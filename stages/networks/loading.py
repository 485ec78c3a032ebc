"""Networks from files, whole and without running what is in the files.

Demucs', LAION's and AudioCraft's weights come as PyTorch pickles, and a pickle may name any function to call. Torch's
restricted unpickler makes tensors and plain containers only; a few harmless names that published checkpoints use
besides (the class of the network, fractions, numpy's scalars) are allowed by the caller, and everything else is an
error. A folder in transformers' form may name code and kernels to fetch, which is never done.
"""

import json
import mmap
from collections.abc import Mapping, Sequence
from fractions import Fraction
from io import BufferedReader
from pathlib import Path
from pickle import UnpicklingError
from threading import RLock
from typing import Any
from zipfile import BadZipFile, is_zipfile

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

LOADING = RLock()
"""Held while a network is loaded by transformers or unpickled. Both change what a whole process has as long as they
load: transformers takes `PreTrainedModel.tie_weights` and torch's initialisations away and gives back what it found,
which for one of two threads (shards at once) is what the other had put there, for good."""

PICKLED_NUMBERS = (
    Fraction,
    np.dtype,
    np.core.multiarray.scalar,  # type: ignore[attr-defined]
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
)
"""What metrics and lengths in published checkpoints are pickled as."""


SAFETENSORS_TYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8},
    "BOOL": torch.bool,
}
"""The names of types in safetensors' headers."""


def load_pickle(path: Path, classes: Sequence[type] = (), mapped: bool = True) -> Any:
    """Load what a `.pt` or `.th` file holds, on the CPU. Changing its tensors changes no file.

    Args:
        path: the file.
        classes: what it may name besides tensors, plain containers and numbers.
        mapped: tensors are read from the file where they are used (but for the form that PyTorch wrote before version
            1.6), and so cost nothing before. One that is copied all the same is better read into memory of its own,
            which is given back: of a mapped file, what was read once stays.

    Raises:
        ValueError: the file is no PyTorch pickle, is damaged, or names something that is not allowed.
    """
    try:
        with LOADING, torch.serialization.safe_globals([*PICKLED_NUMBERS, *classes]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and is_zipfile(path))
    except (UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, BadZipFile) as error:
        why = next((line.strip() for line in str(error).splitlines() if "Unsupported" in line or "GLOBAL" in line), "")
        raise ValueError(
            f"expected PyTorch weights that name no code in {path}, got a file that cannot be loaded safely: "
            f"{why or str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error


def floats_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take tensors out of a dictionary one by one, those of floating point as float32, so that none is there twice."""
    popped = ((name, tensors.pop(name)) for name in [*tensors])  # a generator, which holds one at a time
    return {name: value.float() if value.is_floating_point() else value for name, value in popped}


def read_safetensors(file: Path, prefix: str = "") -> dict[str, Tensor]:
    """Read the tensors of a safetensors file whose names begin with `prefix`, floats as float32, on the CPU: one after
    the other, each into memory of its own, so that half precision costs no more than what it becomes.

    Raises:
        ValueError: the file is damaged, or of another form.
    """
    try:
        with safe_open(file, "pt"):  # which sees whether header and length agree
            pass
        with open(file, "rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length))
            entries = {name: header[name] for name in header if name != "__metadata__" and name.startswith(prefix)}
            return {name: _read_tensor(opened, 8 + length, entry) for name, entry in entries.items()}
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"expected safetensors in {file}, got a file that cannot be read: {error}") from error


def _read_tensor(opened: BufferedReader, start: int, entry: Mapping[str, Any]) -> Tensor:
    """Read a tensor of an open safetensors file whose data begin at `start`."""
    first, end = entry["data_offsets"]
    content = _memory(end - first)
    opened.seek(start + first)
    if opened.readinto(content.numpy().data) != end - first:
        raise ValueError("it ends too early")
    tensor = content.view(SAFETENSORS_TYPES[entry["dtype"]]).reshape(entry["shape"])
    if not tensor.is_floating_point() or tensor.dtype == torch.float32:
        return tensor
    return _memory(4 * tensor.numel()).view(torch.float32).reshape(tensor.shape).copy_(tensor)


def _memory(size: int) -> Tensor:
    """Return so many bytes that go back to the system as soon as no tensor needs them: what the allocator takes back it
    keeps, in pieces that nothing larger fits into."""
    return torch.frombuffer(mmap.mmap(-1, size), dtype=torch.uint8) if size else torch.empty(0, dtype=torch.uint8)


def load_network(network_class: Any, path: Path, attention: str) -> Any:
    """Load a network of transformers from a local folder, in float32, on the CPU.

    Args:
        attention: how it attends (`eager`, `sdpa`), which is said, as a configuration could name kernels to fetch and
            run.

    Raises:
        OSError, ValueError, KeyError, RuntimeError: there is none, or some of its weights are missing: those would be
            random numbers, with no more than a warning.
    """
    with LOADING:
        network, report = network_class.from_pretrained(
            path, dtype=torch.float32, attn_implementation=attention, local_files_only=True, output_loading_info=True
        )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"no weights for {', '.join(missing[:3])}")
    return network


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a local folder; code that it might bring for it is never run.

    Raises:
        OSError, ValueError: there is none.
    """
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        path, local_files_only=True, trust_remote_code=False
    )
    return tokenizer


def check_tensors(tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], owner: str) -> None:
    """Refuse tensors of a file that are not those of a network.

    Args:
        shapes: what the network needs, by the file's names.
        owner: the network, such as `the codec`.

    Raises:
        ValueError: tensors that are missing, unknown or of another shape, by name.
    """
    missing, unknown = sorted(shapes.keys() - tensors.keys()), sorted(tensors.keys() - shapes.keys())
    if missing or unknown:
        raise ValueError(f"expected the weights of {owner}, got {missing} missing and {unknown} unknown")
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise ValueError(f"expected {name} of shape {list(shape)}, got {list(tensors[name].shape)}")
