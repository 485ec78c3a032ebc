"""Where narrow numbers are safe: in convolutions and recurrent layers, around which this stands.

Spectra, distances and codebooks are computed in float32: squares of quiet sound, logarithms near their floor and
differences of nearly equal vectors are what eight bits of precision lose.
"""

from typing import Literal

import torch


def in_precision(device: torch.device, precision: Literal["float32", "bfloat16"]) -> torch.autocast:
    """Inside, matrix products are in this precision; weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
