"""Training of compiled layers compared with that of plain ones: `python -m tests.worlds.compiled_layers [backend]`.

It needs a process of its own, because the tests' shape checks in every function cannot be compiled.
"""

import copy
import sys
from collections.abc import Callable

import torch
from torch import Tensor
from torch._dynamo import lookup_backend

from model.lm.transformer import Transformer
from tests.worlds.plain_transformer import WIDTH, transformer

LAYERS = 3


def learned(made: Transformer, inputs: Tensor, conditions: Tensor) -> list[Tensor]:
    """The loss, and the gradient of the conditions and of every parameter."""
    loss = made(inputs, conditions).square().mean()
    return [loss.detach(), *torch.autograd.grad(loss, [conditions, *made.parameters()])]


def compare(backend: str) -> None:
    """Train both, with checkpointing and without; a copy must not be compiled."""
    made, graphs = transformer(cross=True, layers=LAYERS).train(), list[torch.fx.GraphModule]()
    inputs, conditions = (torch.randn(2, length, WIDTH, requires_grad=True) for length in (7, 3))
    expected = learned(made, inputs, conditions)

    def compile_graph(graph: torch.fx.GraphModule, examples: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return lookup_backend(backend)(graph, examples)

    made.compile_layers(compile_graph)
    tolerance = {"rtol": 1e-4, "atol": 1e-6} if backend == "inductor" else {"rtol": 0.0, "atol": 0.0}
    for made.checkpointing in (False, True):
        torch.testing.assert_close(learned(made, inputs, conditions), expected, **tolerance)
    assert len(graphs) == 1, f"expected one graph for {LAYERS} layers, got {len(graphs)}"
    copy.deepcopy(made)(inputs, conditions[:, :2])
    assert len(graphs) == 1, "expected a copy that is not compiled, got one that is"


if __name__ == "__main__":
    compare(*sys.argv[1:])
