"""A language model prepared for inference: its matrices packed for the kernels that read them fastest.

A step of decoding multiplies a handful of rows by every matrix of the model, so its time is that of reading the
matrices once. The CPU's common kernel lays a matrix out anew in every call; packed ones are laid out once, here, in any
precision.

Products must be batch-invariant (a row gets the same bits whatever is beside it), though sums in floating point follow
the shape that they are computed in. So the rows of a step are padded to a number for which the kernel was seen, on this
machine and for this shape of matrix, to give each row the bits that it gives it among `MAX_ROWS` rows; if there is no
other such number, to `MAX_ROWS`.
"""

import copy
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from model import kernels
from model.lm.attention import Attention, CrossAttention, SplitLinear
from model.lm.config import Precision
from model.lm.language_model import LanguageModel
from model.lm.transformer import Layer

MAX_ROWS = 24
"""Rows that a CPU multiplies together: 8 requests of up to 3 branches each."""
SMALLER_SIZES = (2, 4, 6, 8, 12, 16, 20)
"""Numbers of rows that are tried there for the same bits."""
SMALLEST_SIZE: dict[Precision, int] = {"float32": 4, "bfloat16": 4, "float16": 2, "int8": 2}
"""The least of these that are worth it: oneDNN takes longer for two rows than for four."""
MAX_ROWS_ELSEWHERE, SMALLER_SIZES_ELSEWHERE = 384, (8, 16, 32, 64, 128, 192, 256)
"""The same for other devices, where up to 128 requests go together."""
INT8_LARGEST = 127
"""The largest whole number of 8 bits, with its negative."""
INT8_ZERO = 128
"""What stands for zero where activations are without a sign."""

LinearKernel = Callable[[Tensor], Tensor]
"""From rows [R, X] to rows [R, Y]."""
Activation = Literal["none", "gelu", "relu"]
"""What is made of the product; the kernel of oneDNN does it on its way to memory."""
ACTIVATIONS: dict[Activation, LinearKernel] = {"none": lambda rows: rows, "gelu": F.gelu, "relu": F.relu}
InvariantBatchSizes = dict[tuple[Activation, torch.Size], tuple[int, ...]]
"""Numbers of rows that leave a row's bits as they are, by activation and shape of matrix."""


def prepare_for_inference(model: LanguageModel, precision: Precision) -> LanguageModel:
    """Return the model with its matrices packed, for inference alone; all else is shared with the model.

    Sums are in float32 whatever the precision, and so is what passes from layer to layer.

    Raises:
        ValueError: a precision that the device has no kernel for.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    inference = copy.deepcopy(model, shared)
    sizes: InvariantBatchSizes = {}

    def pack(linear: nn.Module) -> PackedLinear:
        return PackedLinear(linear, precision, sizes)

    for module in list(inference.modules()):
        if isinstance(module, Attention):
            if isinstance(module, CrossAttention) and isinstance(module.in_projection, nn.Linear):
                module.in_projection = SplitLinear(module.in_projection, [module.width, 2 * module.width], pack)
            else:
                module.in_projection = pack(module.in_projection)
            module.out_projection = pack(module.out_projection)
        if isinstance(module, Layer):
            module.expand = PackedLinear(module.expand, precision, sizes, model.config.activation)
            module.activation = nn.Identity()
            module.contract = pack(module.contract)
    inference.heads = nn.ModuleList(pack(head) for head in inference.heads)
    return inference


def packed_bytes(model: LanguageModel, precision: Precision) -> int:
    """Return the bytes of the matrices that `prepare_for_inference` makes, beside the model's own weights."""
    matrices = [*model.heads]
    for module in model.modules():
        if isinstance(module, Attention):
            matrices += [module.in_projection, module.out_projection]
        if isinstance(module, Layer):
            matrices += [module.expand, module.contract]
    linears = [matrix for matrix in matrices if isinstance(matrix, nn.Linear)]
    return sum(linear.weight.numel() * _bytes_per_weight(linear.weight, precision) for linear in linears)


def _bytes_per_weight(weight: Float[Tensor, "Y X"], precision: Precision) -> int:
    if precision == "float32":  # elsewhere than on a CPU the weights are multiplied by as they are
        return weight.element_size() if weight.device.type == "cpu" else 0
    return 1 if precision == "int8" else 2


class PackedLinear(nn.Module):
    """A linear layer for inference.

    Args:
        linear: the layer, or what low-rank adaptation put in its place, which keeps its own precision.
        precision: of the weights.
        sizes: numbers of rows as far as they were tried before; grows by this one's.
        activation: of what the layer gives.
    """

    kernel: LinearKernel

    def __init__(
        self, linear: nn.Module, precision: Precision, sizes: InvariantBatchSizes, activation: Activation = "none"
    ) -> None:
        super().__init__()
        self.sizes: tuple[int, ...] = (MAX_ROWS,) if kernels.enabled() else ()
        if not isinstance(linear, nn.Linear):
            self.kernel = _activated(linear, activation)
            return
        weight, bias = linear.weight.detach(), None if linear.bias is None else linear.bias.detach()
        self.kernel, key = linear_kernel(weight, bias, precision, activation), (activation, weight.shape)
        if kernels.enabled():
            if key not in sizes:
                sizes[key] = find_invariant_sizes(self.kernel, weight, candidate_sizes(weight.device, precision))
            self.sizes = sizes[key]

    def forward(self, inputs: Float[Tensor, "*rows X"]) -> Float[Tensor, "*rows Y"]:
        rows = inputs.reshape(-1, inputs.shape[-1])
        count = len(rows)
        padded = next((size for size in self.sizes if size >= count), count)
        if padded == count:
            outputs = self.kernel(rows)
        else:
            outputs = self.kernel(F.pad(rows, (0, 0, 0, padded - count)))[:count]
        return outputs.view(*inputs.shape[:-1], outputs.shape[-1])


def linear_kernel(
    weight: Float[Tensor, "Y X"],
    bias: Float[Tensor, "Y"] | None,
    precision: Precision,
    activation: Activation = "none",
) -> LinearKernel:
    """Return the function from rows [R, X] to rows [R, Y] of a linear layer and an activation.

    Raises:
        ValueError: a precision that the device has no kernel for.
    """
    if weight.device.type != "cpu":
        return _activated(_kernel_elsewhere(weight, bias, precision), activation)
    if not kernels.enabled():
        return _activated(_plain_kernel(weight, bias, precision), activation)
    if precision == "float16":
        return _activated(_kernel_float16(weight.float(), bias), activation)
    if precision == "int8":
        return _activated(_kernel_int8(weight.float(), bias), activation)
    kind = torch.bfloat16 if precision == "bfloat16" else weight.dtype
    weight, bias = weight.to(kind), None if bias is None else bias.to(kind)
    if kind not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return _activated(lambda rows: F.linear(rows.to(kind), weight, bias).to(rows.dtype), activation)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    multiply = torch.ops.mkldnn._linear_pointwise
    if kind is torch.float32:
        return lambda rows: multiply(rows, packed, bias, activation, [], "none")
    return lambda rows: multiply(rows.to(kind), packed, bias, activation, [], "none").to(rows.dtype)


def _activated(multiply: LinearKernel, activation: Activation) -> LinearKernel:
    """Return the product, followed by the activation by itself."""
    activate = ACTIVATIONS[activation]
    return multiply if activation == "none" else lambda rows: activate(multiply(rows))


def _plain_kernel(weight: Tensor, bias: Tensor | None, precision: Precision) -> LinearKernel:
    """Multiply by torch's own operator numbers that are rounded as the precision says."""
    if precision == "bfloat16":
        return _kernel_elsewhere(weight, bias, precision)
    if precision == "int8":
        rounded = _rounded_int8(weight)
        return lambda rows: F.linear(_rounded_int8(rows), rounded, bias)
    rounded = weight.half().to(weight.dtype) if precision == "float16" else weight
    return lambda rows: F.linear(rows, rounded, bias)


def _rounded_int8(rows: Tensor) -> Tensor:
    """Bring each row to the nearest of 255 numbers that are evenly spaced up to its largest."""
    scale = rows.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny) / INT8_LARGEST
    return (rows / scale).round() * scale


def _kernel_elsewhere(weight: Tensor, bias: Tensor | None, precision: Precision) -> LinearKernel:
    """Multiply by the device's own kernels."""
    if precision == "int8":
        raise ValueError(f"expected the CPU for int8 weights, got {weight.device.type}")
    kind = weight.dtype if precision == "float32" else getattr(torch, precision)
    weight, bias = weight.to(kind), None if bias is None else bias.to(kind)
    return lambda rows: F.linear(rows.to(kind), weight, bias).to(rows.dtype)


def _kernel_float16(weight: Float[Tensor, "Y X"], bias: Float[Tensor, "Y"] | None) -> LinearKernel:
    """Multiply by weights of half the size, which become single ones on their way to the sums."""
    _check_kernels("float16")
    packed = torch.ops.quantized.linear_prepack_fp16(weight, bias)
    multiply = torch.ops.quantized.linear_dynamic_fp16
    return lambda rows: multiply(rows, packed)


def _kernel_int8(weight: Float[Tensor, "Y X"], bias: Float[Tensor, "Y"] | None) -> LinearKernel:
    """Multiply whole numbers of 8 bits, with a scale for each row of the weights and of what they are multiplied by.

    Their sums are exact."""
    _check_kernels("int8")
    if not torch.cpu._is_vnni_supported():
        raise ValueError("expected a CPU with VNNI for int8 weights, for without it their sums overflow, got another")
    scales = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / INT8_LARGEST
    zeros = torch.zeros(len(weight), dtype=torch.long, device=weight.device)
    whole = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(whole, None)
    multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32

    def multiplied(rows: Tensor) -> Tensor:
        products: Tensor
        scale = rows.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / INT8_LARGEST
        products = multiply(rows / scale, 1.0, INT8_ZERO, packed) * scale
        return products if bias is None else products + bias

    return multiplied


def _check_kernels(precision: Precision) -> None:
    engines = torch.backends.quantized.supported_engines
    if "fbgemm" not in engines:
        raise ValueError(f"expected a CPU that has FBGEMM's kernels for {precision} weights, got one with {engines}")


def candidate_sizes(device: torch.device, precision: Precision) -> tuple[int, ...]:
    """Return numbers of rows that may leave a row's bits as they are; the last of them does by definition."""
    if device.type == "cpu":
        return (*(size for size in SMALLER_SIZES if size >= SMALLEST_SIZE[precision]), MAX_ROWS)
    # A device that holds nothing has no bits to compare.
    return (MAX_ROWS_ELSEWHERE,) if device.type == "meta" else (*SMALLER_SIZES_ELSEWHERE, MAX_ROWS_ELSEWHERE)


def find_invariant_sizes(
    kernel: LinearKernel, weight: Float[Tensor, "Y X"], candidates: tuple[int, ...]
) -> tuple[int, ...]:
    """Return the numbers of rows in which rows have the bits that they have among as many as the last of them."""
    *smaller, most = candidates
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn((most, weight.shape[1]), generator=generator, dtype=weight.dtype).to(weight.device)
    expected = kernel(rows)

    def invariant(size: int) -> bool:
        ends = (slice(0, size), slice(most - size, most))
        return all(torch.equal(kernel(rows[end]), expected[end]) for end in ends)

    return (*(size for size in smaller if invariant(size)), most)
