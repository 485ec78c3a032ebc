"""Private operators of torch, without a promise of stability: they lay out weights for a kernel and multiply by them.

Nothing else in the project calls them. A version of torch that lacks one, or has changed its arguments, breaks nothing:
callers ask `available` first, and use torch's public operators if the answer is no. A test compares the signatures with
the installed torch, so that a change is noticed before it silently makes everything slow.
"""

from functools import cache
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

Activation = Literal["none", "gelu", "relu"]
"""Function that is applied to a product before it is written to memory."""
Library = Literal["onednn", "fbgemm"]
"""Library that computes: oneDNN for float32 and bfloat16, FBGEMM for float16 and int8."""
Packed = Any
"""Weights in a library's own layout."""

_PACKED_PARAMETERS = "__torch__.torch.classes.quantized.LinearPackedParamsBase"
_CONVOLUTION = "int[] padding, int[] stride, int[] dilation, int groups"
_POST = "str attr, Scalar?[] scalars, str? algorithm"
SIGNATURES: dict[Library, tuple[str, ...]] = {
    "onednn": (
        "mkldnn::_reorder_linear_weight(Tensor self, int? batch_size=None) -> Tensor Y",
        f"mkldnn::_linear_pointwise(Tensor X, Tensor W, Tensor? B, {_POST}) -> Tensor Y",
        "mkldnn::_reorder_convolution_weight(Tensor self, int[2] padding=0, int[2] stride=1, int[2] dilation=1, "
        "int groups=1, int[]? input_size=None) -> Tensor Y",
        f"mkldnn::_convolution_pointwise(Tensor X, Tensor W, Tensor? B, {_CONVOLUTION}, {_POST}) -> Tensor Y",
    ),
    "fbgemm": (
        f"quantized::linear_prepack_fp16(Tensor W, Tensor? B=None) -> {_PACKED_PARAMETERS} W_prepack",
        f"quantized::linear_dynamic_fp16(Tensor X, {_PACKED_PARAMETERS} W_prepack) -> Tensor Y",
        f"quantized::linear_prepack(Tensor W, Tensor? B=None) -> {_PACKED_PARAMETERS} W_prepack",
        "quantized::linear_with_input_q_dq_qweight_dq_output_fp32(Tensor X, float X_scale, int X_zero_point, "
        f"{_PACKED_PARAMETERS} W_prepack) -> Tensor Y",
    ),
}
"""Signatures that the functions below rely on, as torch writes them."""


@cache
def available(library: Library) -> bool:
    """Return whether this torch and this CPU have a library's operators with the signatures that are used here."""
    if library == "onednn" and not torch.backends.mkldnn.is_available():
        return False
    if library == "fbgemm" and "fbgemm" not in torch.backends.quantized.supported_engines:
        return False
    return all(signature_of(signature) == signature for signature in SIGNATURES[library])


def signature_of(signature: str) -> str | None:
    """Return this torch's signature of the operator that `signature` names; None if it has no such operator."""
    space, name = signature.split("(")[0].split("::")
    operator = getattr(getattr(torch.ops, space), name, None)
    return None if operator is None else str(operator.default._schema)


def pack_matrix(weight: Float[Tensor, "Y X"]) -> Packed:
    """Lay out a matrix of float32 or bfloat16 for oneDNN, to multiply any number of rows."""
    return torch.ops.mkldnn._reorder_linear_weight(weight)


def multiply_packed(
    rows: Float[Tensor, "R X"], packed: Packed, bias: Float[Tensor, "Y"] | None, activation: Activation = "none"
) -> Float[Tensor, "R Y"]:
    """Multiply rows by a matrix from `pack_matrix`, or by a plain matrix, which is laid out in every call. Rows, matrix
    and bias have one precision."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, packed, bias, activation, [], "none")
    return product


def pack_convolution(
    weight: Float[Tensor, "D C 1 k"], geometry: tuple[list[int], list[int], list[int]], shape: list[int]
) -> Packed:
    """Lay out a convolution's weights for oneDNN.

    Args:
        geometry: padding, stride and dilation.
        shape: expected shape of the images.
    """
    return torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, 1, shape)


def convolve_packed(
    image: Float[Tensor, "B C 1 N"],
    packed: Packed,
    bias: Float[Tensor, "D"] | None,
    geometry: tuple[list[int], list[int], list[int]],
    activation: Activation = "none",
) -> Float[Tensor, "B D 1 M"]:
    """Convolve an image with weights from `pack_convolution`."""
    convolve = torch.ops.mkldnn._convolution_pointwise
    convolved: Tensor = convolve(image, packed, bias, *geometry, 1, activation, [], "none")
    return convolved


def pack_float16(weight: Float[Tensor, "Y X"], bias: Float[Tensor, "Y"] | None) -> Packed:
    """Round a matrix of float32 to float16, and lay it out for FBGEMM."""
    return torch.ops.quantized.linear_prepack_fp16(weight, bias)


def multiply_float16(rows: Float[Tensor, "R X"], packed: Packed) -> Float[Tensor, "R Y"]:
    """Multiply rows of float32 by a matrix from `pack_float16`, whose weights are converted to float32 as they are
    read."""
    product: Tensor = torch.ops.quantized.linear_dynamic_fp16(rows, packed)
    return product


def pack_int8(whole: Tensor) -> Packed:
    """Lay out a matrix from `torch.quantize_per_channel` for FBGEMM."""
    return torch.ops.quantized.linear_prepack(whole, None)


def multiply_int8(rows: Float[Tensor, "R X"], zero: int, packed: Packed) -> Float[Tensor, "R Y"]:
    """Round rows to whole numbers, in which `zero` represents 0, and multiply them by a matrix from `pack_int8`."""
    product: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(rows, 1.0, zero, packed)
    return product
