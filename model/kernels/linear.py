"""Kernels that multiply a few rows by a matrix and apply an activation: all that exist for a precision, by name.

All kernels of one precision round their weights in the same way and sum in float32. They differ in the order of their
sums, so that results differ in the last bits. `model.kernels.choosing` chooses between them.
"""

import time
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from model import kernels
from model.kernels import operators
from model.kernels.operators import Activation, Library, Packed
from model.kernels.processor import adds_up_int8, has_avx2_alone, multiplies_bfloat16
from model.lm.config import Precision

INT8_LARGEST = 127
"""The largest whole number of 8 bits that is used; the smallest is its negative."""
INT7_LARGEST = 63
"""The largest whole number of 7 bits. The sum of two products of such numbers with activations up to 255 fits into 16
bits."""
INT8_ZERO = 128
"""The unsigned number that represents zero in activations."""

MAX_ROWS = 96
"""Maximum number of rows that a CPU multiplies together: 32 requests of up to 3 branches each."""
CONVOLVED_INPUTS = 2048
"""Maximum number of inputs of one convolution; more are split into sections."""
CONVOLVED_ROWS = (4, 8, 16, 24, 32, 48, 64, MAX_ROWS)
"""Numbers of rows for which one layout of a convolution's weights may suffice; others were found to need another."""
RELAYOUT_FACTOR, CALLS = 4.0, 3
"""A number of rows needs another layout if each of `CALLS` calls takes more than `RELAYOUT_FACTOR` times as long as
`MAX_ROWS` rows: the weights are then laid out in every call."""
MOST_UNSUITED = 2
"""Maximum count of `CONVOLVED_ROWS` that may need another layout; with more, only `MAX_ROWS` is used."""
ONE_TAP = ([0, 0], [1, 1], [1, 1])
"""Padding, stride and dilation of a convolution that is a matrix product."""

LinearKernel = Callable[[Tensor], Tensor]
"""Maps rows [R, X] to rows [R, Y]."""
ACTIVATIONS: dict[Activation, LinearKernel] = {"none": lambda rows: rows, "gelu": F.gelu, "relu": F.relu}


def linear_kernels(
    weight: Float[Tensor, "Y X"],
    bias: Float[Tensor, "Y"] | None,
    precision: Precision,
    activation: Activation = "none",
) -> dict[str, Callable[[], LinearKernel]]:
    """Return a function for each kernel of a linear layer and its activation, by name, the default first.

    The function makes the kernel by copying the weights into the kernel's layout, which takes time and memory; only
    "torch" uses the layer's own weights. For float32, one kernel holds the weights in float16 if that is exact.

    Raises:
        ValueError: the device has no kernel for the precision.
    """
    if weight.device.type != "cpu":
        kernel = _other_device_kernel(weight, bias, precision)
        return {"torch": lambda: with_activation(kernel, activation)}
    if not kernels.enabled():
        plain = _plain(weight, bias, precision)
        return {"torch": lambda: with_activation(plain, activation)}
    if precision == "int8":
        _check_library("fbgemm", precision)
        return {"fbgemm": lambda: with_activation(_int8(weight.float(), bias), activation)}
    makers: dict[str, Callable[[], LinearKernel]] = {}
    onednn = operators.available("onednn") and weight.dtype in (torch.float32, torch.bfloat16)
    if precision == "float16":
        _check_library("fbgemm", precision)
        makers["fbgemm"] = lambda: with_activation(_float16(weight.float(), bias), activation)
        if onednn:
            makers["onednn"] = lambda: _onednn(weight.half().float(), bias, activation)
        return makers
    if precision == "bfloat16" and not multiplies_bfloat16():
        return _without_bfloat16(weight, bias, activation)
    dtype = torch.bfloat16 if precision == "bfloat16" else weight.dtype
    if onednn:
        makers["onednn"] = lambda: _onednn(weight.to(dtype), bias, activation)
    makers["torch"] = lambda: with_activation(_torch(weight, bias, dtype), activation)
    if onednn and dtype is torch.float32:
        makers["onednn, convolution"] = lambda: ConvolutionKernel(weight, bias, activation)
    if precision == "float32" and operators.available("fbgemm") and are_float16(weight):
        makers["fbgemm, float16"] = lambda: with_activation(_float16(weight, bias), activation)
    return makers


def are_float16(weight: Float[Tensor, "Y X"]) -> bool:
    """Return whether weights in float32 on a CPU are exactly representable in float16, as those of a checkpoint in
    float16 are. Half of the bytes then hold the same weights."""
    on_cpu = weight.device.type == "cpu"  # on other devices, reading the weights would wait for the device
    return on_cpu and weight.dtype is torch.float32 and torch.equal(weight.half().float(), weight)


def _without_bfloat16(
    weight: Float[Tensor, "Y X"], bias: Float[Tensor, "Y"] | None, activation: Activation
) -> dict[str, Callable[[], LinearKernel]]:
    """Return the kernels for bfloat16 on a CPU that would emulate its products.

    They multiply the same rounded numbers in float32 or float16. This is exact, except that float16 rounds weights
    below 1e-4 to multiples of 6e-8.
    """
    rounded_bias = None if bias is None else _rounded_bfloat16(bias)

    def rounding(make: Callable[[Tensor], LinearKernel]) -> LinearKernel:
        multiply = make(_rounded_bfloat16(weight))
        return lambda rows: multiply(_rounded_bfloat16(rows))

    makers: dict[str, Callable[[], LinearKernel]] = {}
    if operators.available("onednn") and weight.dtype in (torch.float32, torch.bfloat16):
        makers["onednn, float32"] = lambda: rounding(
            lambda rounded: _onednn(rounded.float(), rounded_bias, activation),
        )
    makers["torch, float32"] = lambda: rounding(
        lambda rounded: with_activation(_torch(rounded, rounded_bias, rounded.dtype), activation)
    )
    if operators.available("fbgemm") and weight.abs().amax() <= torch.finfo(torch.float16).max:
        makers["fbgemm, float16"] = lambda: rounding(
            lambda rounded: with_activation(_float16(rounded.float(), rounded_bias), activation)
        )
    return makers


def with_activation(multiply: LinearKernel, activation: Activation) -> LinearKernel:
    """Return a kernel that multiplies and then applies the activation in a separate operation."""
    activate = ACTIVATIONS[activation]
    return multiply if activation == "none" else lambda rows: activate(multiply(rows))


def _torch(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> LinearKernel:
    """Return a kernel that uses torch's public operator: on a CPU, MKL or another library that torch was built with."""
    weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    return lambda rows: F.linear(rows.to(dtype), weight, bias).to(rows.dtype)


def _onednn(weight: Tensor, bias: Tensor | None, activation: Activation) -> LinearKernel:
    """Return a kernel that uses oneDNN, which applies the activation before it writes the result."""
    dtype, packed = weight.dtype, operators.pack_matrix(weight)
    bias = None if bias is None else bias.to(dtype)
    if dtype is torch.float32:
        return lambda rows: operators.multiply_packed(rows, packed, bias, activation)
    return lambda rows: operators.multiply_packed(rows.to(dtype), packed, bias, activation).to(rows.dtype)


class ConvolutionKernel:
    """A kernel that multiplies with oneDNN's convolution: rows are the samples of a sound, and the matrix is a
    convolution of one tap. Its code is up to twice as fast as oneDNN's products on a processor without AVX-512.

    The layout of the weights that it needs depends on the number of rows. The weights are laid out once, for
    `MAX_ROWS`. With a number of rows that needs another layout, every call would make that layout, which takes a
    hundred times as long. So `suited_sizes` returns the numbers of rows to use, and more than `MAX_ROWS` rows are
    multiplied in parts. Many inputs are multiplied in sections, because one layout of a section suits more numbers of
    rows.
    """

    def __init__(self, weight: Float[Tensor, "Y X"], bias: Float[Tensor, "Y"] | None, activation: Activation) -> None:
        self.bias, self.activation, self.inputs = bias, activation, weight.shape[1]
        self.sections = [_pack_as_convolution(section) for section in weight.split(CONVOLVED_INPUTS, dim=1)]

    def __call__(self, rows: Float[Tensor, "R X"]) -> Float[Tensor, "R Y"]:
        if len(rows) > MAX_ROWS:
            parts = [F.pad(part, (0, 0, 0, MAX_ROWS - len(part))) for part in rows.split(MAX_ROWS)]
            return torch.cat([self(part) for part in parts])[: len(rows)]
        if len(self.sections) == 1:
            return _convolve(rows, self.sections[0], self.bias, self.activation)
        first, *others = zip(rows.split(CONVOLVED_INPUTS, dim=1), self.sections, strict=True)
        product = _convolve(*first, self.bias)
        for section, packed in others:
            product += _convolve(section, packed, None)
        return ACTIVATIONS[self.activation](product)

    def suited_sizes(self) -> tuple[int, ...]:
        """Return the numbers of rows that need no other layout of the weights, judged by time; only the largest if more
        than `MOST_UNSUITED` need another."""
        rows = torch.zeros(MAX_ROWS, self.inputs)

        def seconds(size: int) -> float:
            started_at = time.perf_counter()
            self(rows[:size])
            return time.perf_counter() - started_at

        *smaller, largest = CONVOLVED_ROWS
        seconds(largest)  # the first call with a size compiles the code for it
        slowest = RELAYOUT_FACTOR * min(seconds(largest) for _ in range(CALLS))
        suited = [largest]
        for tried, size in enumerate(reversed(smaller), start=1):
            if any(seconds(size) <= slowest for _ in range(CALLS)):
                suited.append(size)
            elif tried - len(suited) >= MOST_UNSUITED:
                return (largest,)
        return tuple(reversed(suited))


def few_rows_kernel(weight: Float[Tensor, "Y X"]) -> LinearKernel:
    """Return the kernel that is fastest for 4 to `MAX_ROWS` rows in float32 on this kind of processor, as far as kinds
    of processors have been measured.

    Kernels are not compared by timing, so that no choice has to be remembered: results depend only on the machine and
    its number of threads.
    """
    if has_avx2_alone():
        kernel = ConvolutionKernel(weight, None, "none")
        if kernel.suited_sizes() == CONVOLVED_ROWS:
            return kernel
    return _onednn(weight, None, "none")


def _pack_as_convolution(weight: Float[Tensor, "Y X"]) -> Packed:
    image = weight[:, :, None, None].contiguous(memory_format=torch.channels_last)
    return operators.pack_convolution(image, ONE_TAP, [1, weight.shape[1], 1, MAX_ROWS])


def _convolve(
    rows: Float[Tensor, "R X"], packed: Packed, bias: Float[Tensor, "Y"] | None, activation: Activation = "none"
) -> Float[Tensor, "R Y"]:
    rows = rows.contiguous()
    count, inputs = rows.shape
    image = rows.as_strided((1, inputs, 1, count), (rows.numel(), 1, rows.numel(), inputs))
    return operators.convolve_packed(image, packed, bias, ONE_TAP, activation)[0, :, 0].t()


def _float16(weight: Float[Tensor, "Y X"], bias: Float[Tensor, "Y"] | None) -> LinearKernel:
    """Return a kernel that uses FBGEMM with weights in float16, which reads half as many bytes as in float32."""
    packed = operators.pack_float16(weight, bias)
    return lambda rows: operators.multiply_float16(rows, packed)


def _int8(weight: Float[Tensor, "Y X"], bias: Float[Tensor, "Y"] | None) -> LinearKernel:
    """Return a kernel that multiplies whole numbers of 8 bits, with a scale for each row of weights and of activations.

    The sums are exact. On a processor whose sums would saturate with 8 bits, weights are whole numbers of 7 bits.
    """
    scales = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / _largest_weight()
    zeros = torch.zeros(len(weight), dtype=torch.long, device=weight.device)
    packed = operators.pack_int8(torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8))

    def multiplied(rows: Tensor) -> Tensor:
        scale = rows.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / INT8_LARGEST
        products = operators.multiply_int8(rows / scale, INT8_ZERO, packed) * scale
        return products if bias is None else products + bias

    return multiplied


def _plain(weight: Tensor, bias: Tensor | None, precision: Precision) -> LinearKernel:
    """Return the plain form of the kernels: torch's own operator on numbers that are rounded to the precision."""
    if precision == "bfloat16":
        return _other_device_kernel(weight, bias, precision)
    if precision == "int8":
        rounded = _rounded_whole(weight, _largest_weight())
        return lambda rows: F.linear(_rounded_whole(rows, INT8_LARGEST), rounded, bias)
    rounded = weight.half().to(weight.dtype) if precision == "float16" else weight
    return lambda rows: F.linear(rows, rounded, bias)


def _rounded_bfloat16(numbers: Tensor) -> Tensor:
    """Round numbers to bfloat16, without changing their type."""
    return numbers.bfloat16().to(numbers.dtype)


def _largest_weight() -> int:
    """Return the largest whole number of rounded weights: one of 7 bits where sums would saturate with 8 bits."""
    return INT8_LARGEST if adds_up_int8() else INT7_LARGEST


def _rounded_whole(rows: Tensor, largest: int) -> Tensor:
    """Round each row to 2 * `largest` + 1 evenly spaced numbers between plus and minus its largest magnitude."""
    scale = rows.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny) / largest
    return (rows / scale).round() * scale


def _other_device_kernel(weight: Tensor, bias: Tensor | None, precision: Precision) -> LinearKernel:
    """Return a kernel of another device than the CPU, which uses torch's own operators."""
    if precision == "int8":
        raise ValueError(f"expected the CPU for int8 weights, got {weight.device.type}")
    return _torch(weight, bias, weight.dtype if precision == "float32" else getattr(torch, precision))


def _check_library(library: Library, precision: Precision) -> None:
    if not operators.available(library):
        engines = torch.backends.quantized.supported_engines
        raise ValueError(
            f"expected a CPU that has FBGEMM's kernels for {precision} weights, got one with {engines}: use float32"
        )
