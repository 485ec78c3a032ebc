"""A language model prepared for inference: its matrices packed for the kernels that read them fastest.

A step of decoding multiplies a few rows by every matrix of the model, so its time is that of reading the matrices once.
torch's default kernel on a CPU lays out a matrix in every call. Here matrices are laid out (packed) once, in any
precision. `model.kernels.choosing` chooses the kernel and makes it batch-invariant.
"""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from model import kernels
from model.kernels.choosing import KernelChooser, KernelMemory, MatrixKind, computing_with, random_rows
from model.kernels.linear import MAX_ROWS, LinearKernel, are_float16, linear_kernels, with_activation
from model.kernels.operators import Activation
from model.kernels.processor import multiplies_bfloat16
from model.lm.attention import Attention, CrossAttention, SplitLinear
from model.lm.config import Precision
from model.lm.language_model import LanguageModel
from model.lm.transformer import Layer


def prepare_for_inference(
    model: LanguageModel, precision: Precision, memory: KernelMemory | None = None
) -> LanguageModel:
    """Return a copy of the model with packed matrices, only for inference; everything else is shared with the model.

    Sums and the activations between layers are in float32 for every precision.

    Args:
        precision: precision of the weights.
        memory: memory of the kernels that are fastest here; without it every matrix gets the default kernel.

    Raises:
        ValueError: the device has no kernel for the precision.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    inference = copy.deepcopy(model, shared)
    chooser = KernelChooser(memory, packed_bytes(model, precision))

    def pack(linear: nn.Module) -> PackedLinear:
        return PackedLinear(linear, precision, chooser)

    for module in list(inference.modules()):
        if isinstance(module, Attention):
            if isinstance(module, CrossAttention) and isinstance(module.in_projection, nn.Linear):
                module.in_projection = SplitLinear(module.in_projection, [module.width, 2 * module.width], pack)
            else:
                module.in_projection = pack(module.in_projection)
            module.out_projection = pack(module.out_projection)
        if isinstance(module, Layer):
            module.expand = PackedLinear(module.expand, precision, chooser, model.config.activation)
            module.activation = nn.Identity()
            module.contract = pack(module.contract)
    inference.heads = nn.ModuleList(pack(head) for head in inference.heads)
    return inference


def packed_bytes(model: LanguageModel, precision: Precision) -> int:
    """Return the bytes of the matrices that `prepare_for_inference` makes in addition to the model's own weights."""
    matrices = [*model.heads]
    for module in model.modules():
        if isinstance(module, Attention):
            matrices += [module.in_projection, module.out_projection]
        if isinstance(module, Layer):
            matrices += [module.expand, module.contract]
    linears = [matrix for matrix in matrices if isinstance(matrix, nn.Linear)]
    return sum(linear.weight.numel() * _bytes_per_weight(linear.weight, precision) for linear in linears)


def _bytes_per_weight(weight: Float[Tensor, "Y X"], precision: Precision) -> int:
    if precision == "float32":  # devices other than the CPU use the weights themselves
        return weight.element_size() if weight.device.type == "cpu" else 0
    # The fastest kernel may be one that holds the rounded weights in float32.
    wide = precision == "float16" or (precision == "bfloat16" and not multiplies_bfloat16())
    wide = wide and weight.device.type == "cpu"
    return 4 if wide else 1 if precision == "int8" else 2


class PackedLinear(nn.Module):
    """A linear layer for inference.

    Args:
        linear: the layer, or a module that low-rank adaptation put in its place, which keeps its own precision.
        precision: precision of the weights.
        chooser: chooses the kernel.
        activation: activation of the layer's outputs.
    """

    kernel: LinearKernel

    def __init__(
        self, linear: nn.Module, precision: Precision, chooser: KernelChooser, activation: Activation = "none"
    ) -> None:
        super().__init__()
        self.kind: MatrixKind | None = None
        """Kind of the matrix; None if no kernel was chosen for it."""
        self.sizes: tuple[int, ...] = (MAX_ROWS,) if kernels.enabled() else ()
        if not isinstance(linear, nn.Linear):
            self.kernel = with_activation(linear, activation)
            return
        weight, bias = linear.weight.detach(), None if linear.bias is None else linear.bias.detach()
        makers = linear_kernels(weight, bias, precision, activation)
        if not kernels.enabled():
            (make,) = makers.values()
            self.kernel = make()
            return
        outputs, inputs = weight.shape
        of_float16 = precision == "float32" and are_float16(weight)
        self.kind = MatrixKind(precision, outputs, inputs, activation, bias is not None, of_float16)
        choice = chooser.choose(self.kind, makers, weight)
        self.kernel, self.sizes = makers[choice.kernel](), choice.sizes

    def forward(self, inputs: Float[Tensor, "*rows X"]) -> Float[Tensor, "*rows Y"]:
        rows = inputs.reshape(-1, inputs.shape[-1])
        count = len(rows)
        padded = next((size for size in self.sizes if size >= count), count)
        if padded == count:
            outputs = self.kernel(rows)
        else:
            outputs = self.kernel(F.pad(rows, (0, 0, 0, padded - count)))[:count]
        return outputs.view(*inputs.shape[:-1], outputs.shape[-1])


@torch.inference_mode()
def has_same_bits_with(model: LanguageModel, threads: int) -> bool:
    """Return whether the products of a prepared model have the same bits with `threads` threads as with all threads of
    the calling thread.

    One matrix of each kind is tested. False if a layer has no chosen kernel.
    """
    matrices = [module for module in model.modules() if isinstance(module, PackedLinear)]
    kinds = {matrix.kind: matrix for matrix in reversed(matrices)}
    if None in kinds:
        return False

    def products(number: int) -> list[Tensor]:
        with computing_with(number):
            return [
                matrix.kernel(random_rows(size, kind.inputs, model.dtype))
                for kind, matrix in kinds.items()
                if kind is not None
                for size in matrix.sizes
            ]

    return all(map(torch.equal, products(torch.get_num_threads()), products(threads)))
