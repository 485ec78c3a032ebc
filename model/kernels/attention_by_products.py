"""Attention written out as matrix products, for training in bfloat16 on a CPU.

The fused kernel there is no faster in bfloat16 than in float32, and its gradient least of all, above all where keys are
few. Products are what processors with bfloat16 instructions do twice as fast. Causal attention goes by blocks of
queries, each over the keys that it may see. Attention weights are kept for the gradient, as the fused kernel does not.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from model import kernels

BLOCK = 128
"""Queries of a block: few, so that little is computed of what no query sees; not so few that products become slow."""


def pays(
    queries: Float[Tensor, "B H S E"], keys: Float[Tensor, "B G L E"], mask: Bool[Tensor, "#B 1 #S L"] | None
) -> bool:
    """Whether `attend_by_products` can take the fused kernel's place, and is faster."""
    possible = queries.shape[1] == keys.shape[1] and (mask is None or mask.shape[2] == 1)
    faster = queries.device.type == "cpu" and queries.dtype == torch.bfloat16
    return kernels.enabled() and possible and faster and torch.is_grad_enabled() and queries.requires_grad


def attend_by_products(
    queries: Float[Tensor, "B H S E"],
    keys: Float[Tensor, "B H L E"],
    values: Float[Tensor, "B H L E"],
    mask: Bool[Tensor, "#B 1 1 L"] | None = None,
    causal: bool = False,
) -> Float[Tensor, "B H S E"]:
    """What each query makes of the values (arXiv:1706.03762, 3.2.1).

    Args:
        mask: which keys there are; all without one.
        causal: whether a query sees the keys of its own step and those before it alone.
    """
    steps = queries.shape[2]
    queries = queries * queries.shape[-1] ** -0.5
    keys, values = keys.transpose(-1, -2), values.contiguous()
    mixed = []
    for start in range(0, steps, BLOCK if causal else steps):
        stop = min(start + BLOCK, steps) if causal else steps
        seen = stop if causal else keys.shape[-1]
        scores = queries[:, :, start:stop] @ keys[..., :seen]
        if causal:
            later = torch.ones((stop - start, stop - start), dtype=torch.bool, device=queries.device).triu(1)
            scores[..., start:].masked_fill_(later, float("-inf"))
        if mask is not None:
            scores.masked_fill_(~mask[..., :seen], float("-inf"))
        mixed.append(scores.softmax(-1, dtype=torch.float32).to(values.dtype) @ values[:, :, :seen])
    return torch.cat(mixed, dim=2)
