"""Checkpoints that are pickles, read without running what is in them.

Demucs' and LAION's weights come as PyTorch pickles, and a pickle may name any function to call. Torch's restricted
unpickler makes tensors and plain containers only; a few harmless names that published checkpoints use besides (the
class of the network, fractions, numpy's scalars) are allowed by the caller, and everything else is an error."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, is_zipfile

import numpy as np
import torch

NUMBERS = (
    Fraction,
    np.dtype,
    np.core.multiarray.scalar,  # type: ignore[attr-defined]
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
)
"""What metrics and lengths in published checkpoints are pickled as."""


def load_pickle(path: Path, classes: Sequence[type] = ()) -> Any:
    """What a `.pt` or `.th` file holds, on the CPU. Tensors are read from it where they are used (but for the form that
    PyTorch wrote before version 1.6), and changing them changes no file.

    Args:
        path: the file.
        classes: what it may name besides tensors, plain containers and numbers.

    Raises:
        ValueError: the file is no PyTorch pickle, is damaged, or names something that is not allowed.
    """
    try:
        with torch.serialization.safe_globals([*NUMBERS, *classes]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except (UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, BadZipFile) as error:
        why = next((line.strip() for line in str(error).splitlines() if "Unsupported" in line or "GLOBAL" in line), "")
        raise ValueError(
            f"expected PyTorch weights that name no code in {path}, got a file that cannot be loaded safely: "
            f"{why or str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error
