"""Networks from files, whole and without running what is in the files.

Demucs', LAION's and AudioCraft's weights come as PyTorch pickles, and a pickle may name any function to call. Torch's
restricted unpickler makes tensors and plain containers only; a few harmless names that published checkpoints use
besides (the class of the network, fractions, numpy's scalars) are allowed by the caller, and everything else is an
error. A folder in transformers' form may name code and kernels to fetch, which is never done.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, is_zipfile

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

PICKLED_NUMBERS = (
    Fraction,
    np.dtype,
    np.core.multiarray.scalar,  # type: ignore[attr-defined]
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
)
"""What metrics and lengths in published checkpoints are pickled as."""


def load_pickle(path: Path, classes: Sequence[type] = ()) -> Any:
    """Load what a `.pt` or `.th` file holds, on the CPU. Tensors are read from it where they are used (but for the form
    that PyTorch wrote before version 1.6), and changing them changes no file.

    Args:
        path: the file.
        classes: what it may name besides tensors, plain containers and numbers.

    Raises:
        ValueError: the file is no PyTorch pickle, is damaged, or names something that is not allowed.
    """
    try:
        with torch.serialization.safe_globals([*PICKLED_NUMBERS, *classes]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except (UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, BadZipFile) as error:
        why = next((line.strip() for line in str(error).splitlines() if "Unsupported" in line or "GLOBAL" in line), "")
        raise ValueError(
            f"expected PyTorch weights that name no code in {path}, got a file that cannot be loaded safely: "
            f"{why or str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error


def load_network(network_class: Any, path: Path, attention: str) -> Any:
    """Load a network of transformers from a local folder, in float32, on the CPU.

    Args:
        attention: how it attends (`eager`, `sdpa`), which is said, as a configuration could name kernels to fetch and
            run.

    Raises:
        OSError, ValueError, KeyError, RuntimeError: there is none, or some of its weights are missing: those would be
            random numbers, with no more than a warning.
    """
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
