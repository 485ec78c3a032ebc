"""The precision of matrix products in training, which depends on the instructions of the device."""

from contextlib import AbstractContextManager, nullcontext

import torch

from model.kernels.processor import multiplies_bfloat16
from model.optim.config import TrainingPrecision


def in_precision(device: torch.device, precision: TrainingPrecision) -> AbstractContextManager[object]:
    """Return a context in which matrix products and convolutions are computed in this precision; weights stay float32.

    A codec's spectra, distances and codebooks must be computed outside it: eight bits of precision are not enough for
    the squares of quiet sound, logarithms near their floor and differences of nearly equal vectors.
    """
    if is_single(device, precision):
        return nullcontext()  # the device "meta" has no autocast
    return torch.autocast(device.type, torch.bfloat16)


def is_single(device: torch.device, precision: TrainingPrecision) -> bool:
    """Return whether a training of this precision computes its products in float32 (single precision) on this
    device."""
    return precision == "float32" or fast_dtype(device) == torch.float32


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return the fastest type for the products of a training: bfloat16, or float32 on a CPU without instructions for
    bfloat16."""
    return torch.float32 if device.type == "cpu" and not multiplies_bfloat16() else torch.bfloat16
