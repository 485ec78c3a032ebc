"""Networks from files, complete, and without running code from the files.

The weights of Demucs, LAION and AudioCraft are PyTorch pickles, and a pickle may name any function to call. Torch's
restricted unpickler makes only tensors and plain containers. The caller allows a few harmless names that published
checkpoints use besides (the class of the network, fractions, numpy's scalars); everything else is an error. A folder in
transformers' form may name code and kernels to fetch; they are never fetched.
"""

import json
import mmap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

LOADING = RLock()
"""Held while a network is loaded by transformers or unpickled. Both change global state of the process meanwhile:
transformers replaces `PreTrainedModel.tie_weights` and torch's initialisations, and afterwards restores what it found.
Of two threads that load at once (shards do), one would find the other's replacements, and restore these for good."""

PICKLED_NUMBERS = (
    Fraction,
    np.dtype,
    np.core.multiarray.scalar,  # type: ignore[attr-defined]
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
)
"""Types of metrics and lengths in published checkpoints."""


SAFETENSORS_TYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8},
    "BOOL": torch.bool,
}
"""The names of types in safetensors' headers."""


def load_pickle(path: Path, classes: Sequence[type] = (), mapped: bool = True) -> Any:
    """Load the content of a `.pt` or `.th` file, on the CPU. Changing its tensors does not change the file.

    Args:
        path: the file.
        classes: classes that the file may name besides tensors, plain containers and numbers.
        mapped: whether tensors are mapped from the file and read only where they are used. (A file in the form that
            PyTorch wrote before version 1.6 is never mapped.) Tensors that are copied anyway are better not mapped:
            pages of a mapped file stay in memory once they are read.

    Raises:
        ValueError: the file is not a PyTorch pickle, is damaged, or names something that is not allowed.
    """
    try:
        with LOADING, torch.serialization.safe_globals([*PICKLED_NUMBERS, *classes]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and is_zipfile(path))
    except (UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, BadZipFile) as error:
        reason = next(
            (line.strip() for line in str(error).splitlines() if "Unsupported" in line or "GLOBAL" in line), ""
        )
        raise ValueError(
            f"expected PyTorch weights without code in {path}, got a file that cannot be loaded safely: "
            f"{reason or str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error


def floats_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a dictionary, floating-point tensors as float32. They are removed from it one by one, so
    that no tensor is in memory twice."""
    popped = ((name, tensors.pop(name)) for name in [*tensors])  # a generator holds one at a time
    return {name: value.float() if value.is_floating_point() else value for name, value in popped}


def read_safetensors(file: Path, prefix: str = "") -> dict[str, Tensor]:
    """Read the tensors of a safetensors file whose names begin with `prefix`, on the CPU; floating-point tensors as
    float32. They are read one after another, each into memory of its own, so that a file in half precision needs no
    more memory than the result.

    Raises:
        ValueError: the file is damaged, or of another form.
    """
    try:
        with safe_open(file, "pt"):  # checks that header and length agree
            pass
        with open(file, "rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length))
            entries = {name: header[name] for name in header if name != "__metadata__" and name.startswith(prefix)}
            return {name: _read_tensor(opened, 8 + length, entry) for name, entry in entries.items()}
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"expected safetensors in {file}, got a file that cannot be read: {error}") from error


def _read_tensor(opened: BufferedReader, start: int, entry: Mapping[str, Any]) -> Tensor:
    """Read a tensor of an open safetensors file whose data begins at `start`."""
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
    """Return a tensor of `size` bytes whose memory goes back to the system once no tensor uses it. The allocator would
    keep freed memory in pieces that nothing larger fits into."""
    return torch.frombuffer(mmap.mmap(-1, size), dtype=torch.uint8) if size else torch.empty(0, dtype=torch.uint8)


@contextmanager
def without_bars() -> Iterator[None]:
    """Hold `LOADING` while transformers loads or saves a network, and show none of its bars: they would break into
    those of a run, or into the output of a program that uses a model. The bars of other code stay."""
    with LOADING:
        before = logging.set_tqdm_hook(lambda _, positional, named: logging.EmptyTqdm(*positional, **named))
        try:
            yield
        finally:
            logging.set_tqdm_hook(before)


def load_network(network_class: Any, path: Path, attention: str) -> Any:
    """Load a network of transformers from a local folder, in float32, on the CPU.

    Args:
        attention: implementation of attention (`eager`, `sdpa`). It is always given: a configuration could name kernels
            to fetch and run.

    Raises:
        OSError, ValueError, KeyError, RuntimeError: there is no such network, or some of its weights are missing, which
            transformers would only warn of and fill with random numbers.
    """
    with without_bars():
        network, report = network_class.from_pretrained(
            path, dtype=torch.float32, attn_implementation=attention, local_files_only=True, output_loading_info=True
        )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"no weights for {', '.join(missing[:3])}")
    return network


def save_network(network: PreTrainedModel, folder: Path, tensors: dict[str, Tensor] | None = None) -> None:
    """Write a network of transformers into a folder, so that its `from_pretrained` reads it.

    Args:
        tensors: the weights to write, by name, if they are not the network's own, such as those of another precision.
    """
    with without_bars():
        network.save_pretrained(folder, state_dict=tensors)


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a local folder; code that the folder may bring for it is never run.

    Raises:
        OSError, ValueError: there is none.
    """
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        path, local_files_only=True, trust_remote_code=False
    )
    return tokenizer


def check_tensors(tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], owner: str) -> None:
    """Check that a file's tensors are those of a network.

    Args:
        shapes: shapes of the network's weights, by the file's names.
        owner: the network in messages, such as `the codec`.

    Raises:
        ValueError: tensors are missing, unknown or of another shape; the message names them.
    """
    missing, unknown = sorted(shapes.keys() - tensors.keys()), sorted(tensors.keys() - shapes.keys())
    if missing or unknown:
        raise ValueError(f"expected the weights of {owner}, got {missing} missing and {unknown} unknown")
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise ValueError(f"expected {name} of shape {list(shape)}, got {list(tensors[name].shape)}")
