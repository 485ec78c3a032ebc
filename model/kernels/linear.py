"""Ways to multiply a few rows by a matrix and to apply an activation: all that there are for a precision, by name.

Those of one precision round their weights alike, and add up in float32; what sets them apart is the order of their
sums, so their results differ in the last bits. `model.kernels.choosing` says which one is taken.
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
"""The largest whole number of 8 bits, with its negative."""
INT7_LARGEST = 63
"""The same of 7 bits. Two products with whole numbers up to 255 add up to no more than 16 bits hold."""
INT8_ZERO = 128
"""What stands for zero where activations are without a sign."""

MAX_ROWS = 96
"""Rows that a CPU multiplies together: 32 requests of up to 3 branches each."""
CONVOLVED_INPUTS = 2048
"""Inputs that a convolution adds up at once."""
CONVOLVED_ROWS = (4, 8, 16, 24, 32, 48, 64, MAX_ROWS)
"""Numbers of rows that one layout of a convolution's weights may do for: others were seen to want another."""
LAID_OUT_ANEW, CALLS = 4.0, 3
"""Fewer rows that take so many times as long as the most, in each of so many calls, have the weights laid out anew."""
MOST_UNSUITED = 2
"""Of how many numbers of rows this may be."""
ONE_TAP = ([0, 0], [1, 1], [1, 1])
"""Padding, stride and dilation of a convolution that is a product."""

LinearKernel = Callable[[Tensor], Tensor]
"""From rows [R, X] to rows [R, Y]."""
ACTIVATIONS: dict[Activation, LinearKernel] = {"none": lambda rows: rows, "gelu": F.gelu, "relu": F.relu}


def linear_kernels(
    weight: Float[Tensor, "Y X"],
    bias: Float[Tensor, "Y"] | None,
    precision: Precision,
    activation: Activation = "none",
) -> dict[str, Callable[[], LinearKernel]]:
    """Return what makes each kernel that a linear layer and its activation may have, the usual one first.

    Making one lays the weights out anew, which takes time and memory. "torch" alone multiplies by the layer's own. Of
    float32 one holds the weights as float16, where nothing is lost by that.

    Raises:
        ValueError: a precision that the device has no kernel for.
    """
    if weight.device.type != "cpu":
        elsewhere = _elsewhere(weight, bias, precision)
        return {"torch": lambda: with_activation(elsewhere, activation)}
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
    kind = torch.bfloat16 if precision == "bfloat16" else weight.dtype
    if onednn:
        makers["onednn"] = lambda: _onednn(weight.to(kind), bias, activation)
    makers["torch"] = lambda: with_activation(_torch(weight, bias, kind), activation)
    if onednn and kind is torch.float32:
        makers["onednn, convolution"] = lambda: ConvolutionKernel(weight, bias, activation)
    if precision == "float32" and operators.available("fbgemm") and are_float16(weight):
        makers["fbgemm, float16"] = lambda: with_activation(_float16(weight, bias), activation)
    return makers


def are_float16(weight: Float[Tensor, "Y X"]) -> bool:
    """Return whether weights in float32 on a CPU are numbers of float16, as those of a checkpoint are that was written
    in it: half of the bytes then hold the very same weights."""
    on_cpu = weight.device.type == "cpu"  # elsewhere to look at them is to wait for the device
    return on_cpu and weight.dtype is torch.float32 and torch.equal(weight.half().float(), weight)


def _without_bfloat16(
    weight: Float[Tensor, "Y X"], bias: Float[Tensor, "Y"] | None, activation: Activation
) -> dict[str, Callable[[], LinearKernel]]:
    """Return the kernels for bfloat16 where its products would be emulated: they multiply the same rounded numbers in
    another form, which is exact but for weights below 1e-4, of which float16 holds the multiples of 6e-8."""
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
    """Return the product, followed by the activation by itself."""
    activate = ACTIVATIONS[activation]
    return multiply if activation == "none" else lambda rows: activate(multiply(rows))


def _torch(weight: Tensor, bias: Tensor | None, kind: torch.dtype) -> LinearKernel:
    """Multiply by torch's public operator: on a CPU MKL, or what else it was built with."""
    weight, bias = weight.to(kind), None if bias is None else bias.to(kind)
    return lambda rows: F.linear(rows.to(kind), weight, bias).to(rows.dtype)


def _onednn(weight: Tensor, bias: Tensor | None, activation: Activation) -> LinearKernel:
    """Multiply by oneDNN, which applies the activation on its way to memory."""
    kind, packed = weight.dtype, operators.pack_matrix(weight)
    bias = None if bias is None else bias.to(kind)
    if kind is torch.float32:
        return lambda rows: operators.multiply_packed(rows, packed, bias, activation)
    return lambda rows: operators.multiply_packed(rows.to(kind), packed, bias, activation).to(rows.dtype)


class ConvolutionKernel:
    """Multiply by oneDNN as if the rows were the moments of a sound, and the matrix a convolution of one tap: that has
    kernels of its own, which on a processor without AVX-512 are up to twice as fast.

    How they want the weights to lie follows from the number of rows. The weights are laid out once, for `MAX_ROWS`;
    rows in a number that wants another layout would have it made anew in each call, which takes a hundred times as
    long. So `suited_sizes` says which numbers to multiply by, and more rows than that go in parts. Many inputs are
    multiplied in sections, for which one layout does for more numbers of rows.
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
        """Return the numbers of rows for which the weights lie as they are wanted, by the time that these take; only
        the largest where that is so of few."""
        rows = torch.zeros(MAX_ROWS, self.inputs)

        def seconds(size: int) -> float:
            begun = time.perf_counter()
            self(rows[:size])
            return time.perf_counter() - begun

        *smaller, most = CONVOLVED_ROWS
        seconds(most)  # the first call with a size makes the code for it
        longest = LAID_OUT_ANEW * min(seconds(most) for _ in range(CALLS))
        suited = [most]
        for tried, size in enumerate(reversed(smaller), start=1):
            if any(seconds(size) <= longest for _ in range(CALLS)):
                suited.append(size)
            elif tried - len(suited) >= MOST_UNSUITED:
                return (most,)
        return tuple(reversed(suited))


def few_rows_kernel(weight: Float[Tensor, "Y X"]) -> LinearKernel:
    """Return what multiplies 4 to `MAX_ROWS` rows by a matrix in float32 fastest on processors of this kind, as far as
    kinds were measured. No two kernels are timed for it, so that it needs no memory: a machine's results follow from
    the machine and its number of threads alone."""
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
    """Multiply by FBGEMM, which reads half as much as in float32."""
    packed = operators.pack_float16(weight, bias)
    return lambda rows: operators.multiply_float16(rows, packed)


def _int8(weight: Float[Tensor, "Y X"], bias: Float[Tensor, "Y"] | None) -> LinearKernel:
    """Multiply whole numbers of 8 bits, with a scale for each row of the weights and of what they are multiplied by.

    Their sums are exact; where the processor would cut sums of full weights off, these are whole numbers of 7 bits."""
    scales = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / _largest_weight()
    zeros = torch.zeros(len(weight), dtype=torch.long, device=weight.device)
    packed = operators.pack_int8(torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8))

    def multiplied(rows: Tensor) -> Tensor:
        scale = rows.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / INT8_LARGEST
        products = operators.multiply_int8(rows / scale, INT8_ZERO, packed) * scale
        return products if bias is None else products + bias

    return multiplied


def _plain(weight: Tensor, bias: Tensor | None, precision: Precision) -> LinearKernel:
    """Multiply by torch's own operator numbers that are rounded as the precision says."""
    if precision == "bfloat16":
        return _elsewhere(weight, bias, precision)
    if precision == "int8":
        rounded = _rounded_whole(weight, _largest_weight())
        return lambda rows: F.linear(_rounded_whole(rows, INT8_LARGEST), rounded, bias)
    rounded = weight.half().to(weight.dtype) if precision == "float16" else weight
    return lambda rows: F.linear(rows, rounded, bias)


def _rounded_bfloat16(numbers: Tensor) -> Tensor:
    """Bring numbers to the nearest ones of bfloat16, in the form that they have."""
    return numbers.bfloat16().to(numbers.dtype)


def _largest_weight() -> int:
    """Return the largest whole number that weights are rounded to: of 7 bits where sums of 8 would be cut off."""
    return INT8_LARGEST if adds_up_int8() else INT7_LARGEST


def _rounded_whole(rows: Tensor, largest: int) -> Tensor:
    """Bring each row to the nearest of 2 `largest` + 1 numbers that are evenly spaced up to its largest."""
    scale = rows.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny) / largest
    return (rows / scale).round() * scale


def _elsewhere(weight: Tensor, bias: Tensor | None, precision: Precision) -> LinearKernel:
    """Multiply by the device's own kernels."""
    if precision == "int8":
        raise ValueError(f"expected the CPU for int8 weights, got {weight.device.type}")
    return _torch(weight, bias, weight.dtype if precision == "float32" else getattr(torch, precision))


def _check_library(library: Library, precision: Precision) -> None:
    if not operators.available(library):
        engines = torch.backends.quantized.supported_engines
        raise ValueError(
            f"expected a CPU that has FBGEMM's kernels for {precision} weights, got one with {engines}: take float32"
        )
