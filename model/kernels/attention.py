"""Attention written out as matrix products, in two forms: batch-invariant for decoding, fast in bfloat16 for training.

`model.lm.attention.attend` chooses between these two and torch's fused kernel, which is the plain form of both.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from model import kernels

BLOCK = 128
"""Queries of a block: few enough that few masked scores are computed, but enough that products are fast."""


def batch_invariant_attention(
    queries: Float[Tensor, "B H S E"],
    keys: Float[Tensor, "B G L E"],
    values: Float[Tensor, "B G L E"],
    mask: Bool[Tensor, "#B 1 #S L"] | None = None,
) -> Float[Tensor, "B H S E"]:
    """Compute attention by products that give a row the same bits at any position of a batch (arXiv:1706.03762, 3.2.1).

    On a CPU the fused kernel does not: with two threads or more, its last bits depend on the position of the row. The
    queries of a group become steps of one head, so that the group's keys are read once, in the form of the cache.
    """
    group, steps = queries.shape[1] // keys.shape[1], queries.shape[2]
    if group > 1:
        queries = queries.unflatten(1, (-1, group)).flatten(2, 3)
    queries = queries * queries.shape[-1] ** -0.5
    if queries.shape[2] == 1:  # in this order of factors, the keys are read a fifth faster
        scores = (keys @ queries.transpose(-1, -2)).transpose(-1, -2)
    else:
        scores = queries @ keys.transpose(-1, -2)
    if mask is not None:
        visible = mask if group == 1 else mask.expand(-1, -1, steps, -1).repeat(1, 1, group, 1)
        scores = torch.where(visible, scores, float("-inf"))
    attended = scores.softmax(-1) @ values
    return attended.unflatten(2, (group, steps)).flatten(1, 2) if group > 1 else attended


def prefers_products(queries: Float[Tensor, "B H S E"], keys: Float[Tensor, "B G L E"], mask: Tensor | None) -> bool:
    """Return whether `attention_by_products` can replace the fused kernel and is faster."""
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
    """Compute attention by products, for training in bfloat16 (arXiv:1706.03762, 3.2.1).

    On a CPU the fused kernel and especially its gradient are not faster in bfloat16 than in float32, least of all with
    few keys. Products are twice as fast on processors with bfloat16 instructions. Causal attention is computed in
    blocks of queries, each over the keys that it may see. Unlike the fused kernel, this keeps the attention weights for
    the gradient.

    Args:
        mask: which keys are present; all if None.
        causal: whether a query sees only the keys of its own step and earlier ones.
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
