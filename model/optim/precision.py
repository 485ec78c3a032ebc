"""The precision that products of a training are computed in, by what the device has instructions for."""

from contextlib import AbstractContextManager, nullcontext

import torch

from model.kernels.processor import multiplies_bfloat16
from model.optim.config import TrainingPrecision


def in_precision(device: torch.device, precision: TrainingPrecision) -> AbstractContextManager[object]:
    """Compute matrix products and convolutions inside in this precision; weights stay float32.

    A codec's spectra, distances and codebooks stand outside: squares of quiet sound, logarithms near their floor and
    differences of nearly equal vectors are what eight bits of precision lose.
    """
    if is_single(device, precision):
        return nullcontext()  # a device without values ("meta") has no autocast
    return torch.autocast(device.type, torch.bfloat16)


def is_single(device: torch.device, precision: TrainingPrecision) -> bool:
    """Return whether products are computed in float32 where a training asks for this precision."""
    return precision == "float32" or fast_dtype(device) == torch.float32


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return the type in which a device multiplies fastest of those that training takes: bfloat16, but float32 on a CPU
    that has no instructions for it."""
    return torch.float32 if device.type == "cpu" and not multiplies_bfloat16() else torch.bfloat16
