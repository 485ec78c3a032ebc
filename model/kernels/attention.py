"""Attention written out as matrix products, in two forms: batch-invariant for decoding, fast in bfloat16 for training.

`model.lm.attention.attend` chooses between these and torch's fused kernel, which is the plain form of both.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from model import kernels

BLOCK = 128
"""Queries of a block: few, so that little is computed of what no query sees; not so few that products become slow."""


def batch_invariant_attention(
    queries: Float[Tensor, "B H S E"],
    keys: Float[Tensor, "B G L E"],
    values: Float[Tensor, "B G L E"],
    mask: Bool[Tensor, "#B 1 #S L"] | None = None,
) -> Float[Tensor, "B H S E"]:
    """Attend by products that give a row the same bits wherever it stands in a batch (arXiv:1706.03762, 3.2.1).

    The fused kernel does not on the CPU: with two threads or more, its last bits change with the row's place. The
    queries of a group stand under each other, so that its keys are read as they are cached, once.
    """
    group, steps = queries.shape[1] // keys.shape[1], queries.shape[2]
    if group > 1:
        queries = queries.unflatten(1, (-1, group)).flatten(2, 3)
    queries = queries * queries.shape[-1] ** -0.5
    if queries.shape[2] == 1:  # in this order the kernel reads the keys a fifth faster
        scores = (keys @ queries.transpose(-1, -2)).transpose(-1, -2)
    else:
        scores = queries @ keys.transpose(-1, -2)
    if mask is not None:
        visible = mask if group == 1 else mask.expand(-1, -1, steps, -1).repeat(1, 1, group, 1)
        scores = torch.where(visible, scores, float("-inf"))
    attended = scores.softmax(-1) @ values
    return attended.unflatten(2, (group, steps)).flatten(1, 2) if group > 1 else attended


def prefers_products(queries: Float[Tensor, "B H S E"], keys: Float[Tensor, "B G L E"], mask: Tensor | None) -> bool:
    """Return whether `attention_by_products` can take the fused kernel's place, and is faster."""
    possible = queries.shape[1] == keys.shape[1] and (mask is None or mask.shape[2] == 1)
    faster = queries.device.type == "cpu" and queries.dtype == torch.bfloat16
    return kernels.enabled() and possible and faster and torch.is_grad_enabled() and queries.requires_grad


def attention_by_products(
    queries: Float[Tensor, "B H S E"],
    keys: Float[Tensor, "B H L E"],
    values: Float[Tensor, "B H L E"],
    mask: Bool[Tensor, "#B 1 1 L"] | None = None,
    causal: bool = False,
) -> Float[Tensor, "B H S E"]:
    """Attend by products, for training in bfloat16 (arXiv:1706.03762, 3.2.1).

    The fused kernel is no faster in bfloat16 than in float32 on a CPU, and its gradient least of all, above all where
    keys are few. Products are what processors with bfloat16 instructions do twice as fast. Causal attention goes by
    blocks of queries, each over the keys that it may see. Attention weights are kept for the gradient, as the fused
    kernel does not.

    Args:
        mask: which keys there are; all without one.
        causal: whether a query sees the keys of its own step and those before it alone.
    """
    steps = queries.shape[2]
    queries = queries * queries.shape[-1] ** -0.5
    keys, values = keys.transpose(-1, -2), values.contiguous()
    attended = []
    for start in range(0, steps, BLOCK if causal else steps):
        stop = min(start + BLOCK, steps) if causal else steps
        seen = stop if causal else keys.shape[-1]
        scores = queries[:, :, start:stop] @ keys[..., :seen]
        if causal:
            later = torch.ones((stop - start, stop - start), dtype=torch.bool, device=queries.device).triu(1)
            scores[..., start:].masked_fill_(later, float("-inf"))
        if mask is not None:
            scores.masked_fill_(~mask[..., :seen], float("-inf"))
        attended.append(scores.softmax(-1, dtype=torch.float32).to(values.dtype) @ values[:, :, :seen])
    return torch.cat(attended, dim=2)
