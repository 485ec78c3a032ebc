"""Linear layers that learn in float32, by oneDNN where it is faster than torch's default library.

torch multiplies float32 by MKL, which is best on Intel processors: a core of an AMD Zen 5 reaches 104 GFLOP/s with MKL
and 180 to 245 with oneDNN, forward and backward. In bfloat16 torch uses oneDNN itself. Sums differ in the last bits, so
a machine times the two libraries once and remembers the choice (`model.kernels.choosing`): a training that is continued
has the same bits as one without interruption.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from model import kernels
from model.kernels import operators
from model.kernels.choosing import MARGIN, SMALLEST_TIMED, KernelChoice, KernelMemory, random_rows, timing_clock

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Takes rows [R, X], a matrix [Y, X] and a bias [Y] or None; returns rows [R, Y]."""
TIMED_ROWS, ROUNDS = 256, 6
"""Number of rows in a timed product, and number of rounds; the fastest even round and the fastest odd round count."""


class OneDnnLinear(nn.Linear):
    """A `torch.nn.Linear` that computes its products and those of its gradients with oneDNN."""

    def forward(self, inputs: Float[Tensor, "*rows X"]) -> Float[Tensor, "*rows Y"]:
        return multiply(inputs, self.weight, self.bias)


def multiply(
    inputs: Float[Tensor, "*rows X"], weight: Float[Tensor, "Y X"], bias: Float[Tensor, "Y"] | None
) -> Float[Tensor, "*rows Y"]:
    """Do what `torch.nn.functional.linear` does, with oneDNN if inputs and weights are float32."""
    single = inputs.dtype == weight.dtype == torch.float32
    if not kernels.enabled() or not single or torch.is_autocast_enabled(inputs.device.type):
        return F.linear(inputs, weight, bias)
    rows: Tensor = _Product.apply(inputs.reshape(-1, inputs.shape[-1]).contiguous(), weight, bias)  # type: ignore[no-untyped-call]
    return rows.view(*inputs.shape[:-1], len(weight))


class _Product(torch.autograd.Function):
    """Rows times a matrix, plus a bias."""

    @staticmethod
    def forward(
        ctx: Any, rows: Float[Tensor, "R X"], weight: Float[Tensor, "Y X"], bias: Float[Tensor, "Y"] | None
    ) -> Float[Tensor, "R Y"]:
        ctx.save_for_backward(rows, weight)
        return operators.multiply_packed(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "R Y"]) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        rows, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        needs_rows, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            operators.multiply_packed(gradient, weight.t(), None) if needs_rows else None,
            operators.multiply_packed(gradient.t(), rows.t(), None) if needs_weight else None,
            gradient.sum(0) if needs_bias else None,
        )


PRODUCTS: Mapping[str, Product] = {"torch": F.linear, "onednn": multiply}
"""Products by the name of their library, the default first."""


def choose_products(model: nn.Module, memory: KernelMemory | None, clock: Callable[[], float] | None = None) -> str:
    """Set the linear layers of a model on a CPU to use the library that is faster here, and return its name.

    All layers use the same library: the faster one for the largest matrix, forward and backward together.

    Args:
        memory: memory of earlier choices; without it, and for small matrices, torch's default is used.
        clock: returns the time in seconds; `timing_clock()` if None.
    """
    layers = [module for module in model.modules() if type(module) is nn.Linear]
    layers = [layer for layer in layers if layer.weight.device.type == "cpu" and layer.weight.dtype == torch.float32]
    largest = max(layers, key=lambda layer: layer.weight.numel(), default=None)
    if memory is None or largest is None or not operators.available("onednn"):
        return "torch"
    if largest.weight.nbytes < SMALLEST_TIMED:
        return "torch"
    kind = f"training in float32, {largest.in_features} to {largest.out_features}"
    choice = memory.recall(kind)
    if choice is None or choice.kernel not in PRODUCTS:
        choice = memory.keep(kind, KernelChoice(_faster(largest.weight.detach(), clock or timing_clock()), ()))
    if choice is None or choice.kernel != "onednn":
        return "torch"
    for layer in layers:
        layer.__class__ = OneDnnLinear
    return choice.kernel


def _faster(weight: Float[Tensor, "Y X"], clock: Callable[[], float]) -> str:
    """Return the name of the product that is faster, forward and backward; the default unless the other is clearly
    faster."""
    rows = random_rows(TIMED_ROWS, weight.shape[1], weight.dtype).requires_grad_()
    matrix = weight.clone().requires_grad_()
    timings: list[dict[str, float]] = [dict.fromkeys(PRODUCTS, float("inf")) for _ in range(2)]
    for number in range(ROUNDS):
        for name, product in PRODUCTS.items():
            start = clock()
            torch.autograd.backward(product(rows, matrix, None).sum())
            timings[number % 2][name] = min(timings[number % 2][name], clock() - start)
    default, alternative = PRODUCTS
    return alternative if all(seconds[alternative] < MARGIN * seconds[default] for seconds in timings) else default
