"""The matrices of a model made ready for decoding: packed for the kernels that read them fastest, in any precision.

A step of decoding multiplies a handful of rows by every matrix of the model, so its time is that of reading the
matrices once. The CPU's common kernel lays a matrix out anew in every call; packed ones are laid out once, here.

A row must get the same bits in any company, though sums in floating point follow the shape that they are computed in.
So the rows of a step are filled up to a number for which the kernel was seen, on this machine and for this shape of
matrix, to give each row the bits that it gives it among `ROWS` rows; if there is no other such number, to `ROWS`.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from model import kernels
from model.lm.config import Precision

ROWS = 24
"""Rows that a CPU multiplies together: 8 requests, each asked for in up to 3 ways."""
FEWER = (2, 4, 6, 8, 12, 16, 20)
"""Numbers of rows that are tried there for the same bits."""
FEWEST: dict[Precision, int] = {"float32": 4, "bfloat16": 4, "float16": 2, "int8": 2}
"""The least of these that are worth it: oneDNN takes longer for two rows than for four."""
ROWS_ELSEWHERE, FEWER_ELSEWHERE = 384, (8, 16, 32, 64, 128, 192, 256)
"""The same for other devices, where up to 128 requests go together."""
INT8_LARGEST = 127
"""The largest whole number of 8 bits, with its negative."""
INT8_ZERO = 128
"""What stands for zero where activations are without a sign."""

Product = Callable[[Tensor], Tensor]
Activation = Literal["none", "gelu", "relu"]
"""What is made of the product; the kernel of oneDNN does it on its way to memory."""
ACTIVATIONS: dict[Activation, Product] = {"none": lambda rows: rows, "gelu": F.gelu, "relu": F.relu}
Proven = dict[tuple[Activation, torch.Size], tuple[int, ...]]
"""Numbers of rows that leave a row's bits as they are, by activation and shape of matrix."""


class Matrix(nn.Module):
    """A linear layer for decoding.

    Args:
        linear: the layer, or what low-rank adaptation put in its place, which keeps its own precision.
        precision: of the weights.
        proven: numbers of rows as far as they were tried before; grows by this one's.
        activation: of what the layer gives.
    """

    product: Product

    def __init__(
        self, linear: nn.Module, precision: Precision, proven: Proven, activation: Activation = "none"
    ) -> None:
        super().__init__()
        self.counts: tuple[int, ...] = (ROWS,) if kernels.enabled() else ()
        if isinstance(linear, nn.Linear):
            weight, bias = linear.weight.detach(), None if linear.bias is None else linear.bias.detach()
            self.product, tried = product(weight, bias, precision, activation), (activation, weight.shape)
            if not kernels.enabled():
                return
            if tried not in proven:
                proven[tried] = same_bits(self.product, weight, counts_to_try(weight.device, precision))
            self.counts = proven[tried]
        else:
            self.product = _activated(linear, activation)

    def forward(self, inputs: Float[Tensor, "*rows X"]) -> Float[Tensor, "*rows Y"]:
        rows = inputs.reshape(-1, inputs.shape[-1])
        number = len(rows)
        wanted = next((count for count in self.counts if count >= number), number)
        if wanted == number:
            found = self.product(rows)
        else:
            found = self.product(F.pad(rows, (0, 0, 0, wanted - number)))[:number]
        return found.view(*inputs.shape[:-1], found.shape[-1])


class Sections(nn.Module):
    """A matrix in parts, each of which may be asked for alone: queries, and keys with values."""

    def __init__(self, linear: nn.Linear, widths: list[int], precision: Precision, proven: Proven) -> None:
        super().__init__()
        self.parts = nn.ModuleList()
        self.widths = widths
        for start, stop in _bounds(widths):
            part = nn.Linear(linear.in_features, stop - start, bias=linear.bias is not None, device="meta")
            part.weight = nn.Parameter(linear.weight.detach()[start:stop], requires_grad=False)
            if linear.bias is not None:
                part.bias = nn.Parameter(linear.bias.detach()[start:stop], requires_grad=False)
            self.parts.append(Matrix(part, precision, proven))

    def section(self, inputs: Float[Tensor, "*rows X"], start: int, stop: int) -> Float[Tensor, "*rows Y"]:
        """What one of the parts makes of the inputs; ValueError for bounds that are not those of one."""
        bounds = _bounds(self.widths)
        if (start, stop) not in bounds:
            raise ValueError(f"expected one of the sections {bounds}, got {(start, stop)}")
        return self.parts[bounds.index((start, stop))](inputs)


def _bounds(widths: list[int]) -> list[tuple[int, int]]:
    return [(sum(widths[:number]), sum(widths[: number + 1])) for number in range(len(widths))]


def product(
    weight: Float[Tensor, "Y X"],
    bias: Float[Tensor, "Y"] | None,
    precision: Precision,
    activation: Activation = "none",
) -> Product:
    """The function from rows [R, X] to rows [R, Y] of a linear layer and an activation.

    Raises ValueError for a precision that the device has no kernel for.
    """
    if weight.device.type != "cpu":
        return _activated(_product_elsewhere(weight, bias, precision), activation)
    if not kernels.enabled():
        return _activated(_plain_product(weight, bias, precision), activation)
    if precision == "float16":
        return _activated(_product_float16(weight.float(), bias), activation)
    if precision == "int8":
        return _activated(_product_int8(weight.float(), bias), activation)
    kind = torch.bfloat16 if precision == "bfloat16" else weight.dtype
    weight, bias = weight.to(kind), None if bias is None else bias.to(kind)
    if kind not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return _activated(lambda rows: F.linear(rows.to(kind), weight, bias).to(rows.dtype), activation)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    multiply = torch.ops.mkldnn._linear_pointwise
    if kind is torch.float32:
        return lambda rows: multiply(rows, packed, bias, activation, [], "none")
    return lambda rows: multiply(rows.to(kind), packed, bias, activation, [], "none").to(rows.dtype)


def _activated(multiply: Product, activation: Activation) -> Product:
    """The product, then the activation by itself."""
    activate = ACTIVATIONS[activation]
    return multiply if activation == "none" else lambda rows: activate(multiply(rows))


def _plain_product(weight: Tensor, bias: Tensor | None, precision: Precision) -> Product:
    """By torch's own operator, of numbers that are rounded as the precision says."""
    if precision == "bfloat16":
        return _product_elsewhere(weight, bias, precision)
    if precision == "int8":
        rounded = _rounded_int8(weight)
        return lambda rows: F.linear(_rounded_int8(rows), rounded, bias)
    rounded = weight.half().to(weight.dtype) if precision == "float16" else weight
    return lambda rows: F.linear(rows, rounded, bias)


def _rounded_int8(rows: Tensor) -> Tensor:
    """Each row in the nearest of 255 numbers that are evenly spaced up to its largest."""
    scale = rows.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny) / INT8_LARGEST
    return (rows / scale).round() * scale


def _product_elsewhere(weight: Tensor, bias: Tensor | None, precision: Precision) -> Product:
    """By the device's own kernels."""
    if precision == "int8":
        raise ValueError(f"expected the CPU for int8 weights, got {weight.device.type}")
    kind = weight.dtype if precision == "float32" else getattr(torch, precision)
    weight, bias = weight.to(kind), None if bias is None else bias.to(kind)
    return lambda rows: F.linear(rows.to(kind), weight, bias).to(rows.dtype)


def _product_float16(weight: Float[Tensor, "Y X"], bias: Float[Tensor, "Y"] | None) -> Product:
    """Weights of half the size, which become single ones on their way to the sums."""
    _check_kernels("float16")
    packed = torch.ops.quantized.linear_prepack_fp16(weight, bias)
    multiply = torch.ops.quantized.linear_dynamic_fp16
    return lambda rows: multiply(rows, packed)


def _product_int8(weight: Float[Tensor, "Y X"], bias: Float[Tensor, "Y"] | None) -> Product:
    """Whole numbers of 8 bits, with a scale for each row of the weights and of what they are multiplied by. Their sums
    are exact."""
    _check_kernels("int8")
    if not torch.cpu._is_vnni_supported():
        raise ValueError("expected a CPU with VNNI for int8 weights, for without it their sums overflow, got another")
    scales = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / INT8_LARGEST
    zeros = torch.zeros(len(weight), dtype=torch.long, device=weight.device)
    whole = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(whole, None)
    multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32

    def multiplied(rows: Tensor) -> Tensor:
        scale = rows.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / INT8_LARGEST
        found = multiply(rows / scale, 1.0, INT8_ZERO, packed) * scale
        return found if bias is None else found + bias

    return multiplied


def _check_kernels(precision: Precision) -> None:
    engines = torch.backends.quantized.supported_engines
    if "fbgemm" not in engines:
        raise ValueError(f"expected a CPU that has FBGEMM's kernels for {precision} weights, got one with {engines}")


def counts_to_try(device: torch.device, precision: Precision) -> tuple[int, ...]:
    """Numbers of rows that may leave a row's bits as they are, the last of them by definition."""
    if device.type == "cpu":
        return (*(count for count in FEWER if count >= FEWEST[precision]), ROWS)
    # A device that holds nothing has no bits to compare.
    return (ROWS_ELSEWHERE,) if device.type == "meta" else (*FEWER_ELSEWHERE, ROWS_ELSEWHERE)


def same_bits(multiply: Product, weight: Float[Tensor, "Y X"], counts: tuple[int, ...]) -> tuple[int, ...]:
    """Those of the numbers of rows in which rows have the bits that they have among as many as the last of them."""
    *fewer, most = counts
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn((most, weight.shape[1]), generator=generator, dtype=weight.dtype).to(weight.device)
    expected = multiply(rows)

    def alike(count: int) -> bool:
        places = (slice(0, count), slice(most - count, most))
        return all(torch.equal(multiply(rows[place]), expected[place]) for place in places)

    return (*(count for count in fewer if alike(count)), most)


def bytes_a_weight(weight: Float[Tensor, "Y X"], precision: Precision) -> int:
    """What a weight takes once it is packed, beside where it came from."""
    if precision == "float32":  # elsewhere than on a CPU the weights are multiplied by as they are
        return weight.element_size() if weight.device.type == "cpu" else 0
    return 1 if precision == "int8" else 2
