"""A language model made ready for decoding: the same model, its matrices in the form that decoding reads fastest."""

import copy

from torch import nn

from model.kernels.packed_linear import ACTIVATIONS, Matrix, Proven, Sections, bytes_a_weight
from model.lm.attention import Attention
from model.lm.config import Precision
from model.lm.language_model import LanguageModel
from model.lm.transformer import Layer


def prepare_for_inference(model: LanguageModel, precision: Precision) -> LanguageModel:
    """The model with its matrices made ready, for inference alone; what is not a matrix is shared with the model.

    Sums are in float32 whatever the precision, and so is what passes from layer to layer.

    Raises:
        ValueError: a precision that the device has no kernel for.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    ready = copy.deepcopy(model, shared)
    proven: Proven = {}
    for module in list(ready.modules()):
        if isinstance(module, Attention):
            if module.cross and isinstance(module.in_projection, nn.Linear):
                widths = [module.width, 2 * module.width]
                module.in_projection = Sections(module.in_projection, widths, precision, proven)
            else:
                module.in_projection = Matrix(module.in_projection, precision, proven)
            module.out_projection = Matrix(module.out_projection, precision, proven)
    for module in list(ready.modules()):
        if isinstance(module, Layer):
            module.expand = Matrix(module.expand, precision, proven, model.config.activation)
            module.activation = ACTIVATIONS["none"]
            module.contract = Matrix(module.contract, precision, proven)
    ready.heads = nn.ModuleList(Matrix(head, precision, proven) for head in ready.heads)
    return ready


def packed_bytes(model: LanguageModel, precision: Precision) -> int:
    """What the matrices take that `prepare_for_inference` makes, beside the model's own weights."""
    matrices = [*model.heads]
    for module in model.modules():
        if isinstance(module, Attention):
            matrices += [module.in_projection, module.out_projection]
        if isinstance(module, Layer):
            matrices += [module.expand, module.contract]
    linears = [matrix for matrix in matrices if isinstance(matrix, nn.Linear)]
    return sum(linear.weight.numel() * bytes_a_weight(linear.weight, precision) for linear in linears)
