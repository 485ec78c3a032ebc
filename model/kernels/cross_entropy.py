"""Cross-entropy of logits in bfloat16, without a copy of them in float32.

torch's function needs such a copy and keeps as many logarithms for the gradient: together four times the size of the
logits. Here a few rows at a time are converted to float32 in the processor's cache, once for the loss and once for the
gradient. Only the logits and one number a row are kept.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from model import kernels

IGNORED = -100
"""Target of a row that is not counted, as in `torch.nn.functional.cross_entropy`."""
CHUNK = 2**17
"""Number of logits that are converted to float32 at a time: half a megabyte."""


def summed_cross_entropy(logits: Float[Tensor, "N V"], targets: Int[Tensor, "N"]) -> Float[Tensor, ""]:
    """Return the sum of the cross-entropies of all rows, in float32, nats; rows whose target is `IGNORED` are not
    counted."""
    if kernels.enabled() and logits.device.type == "cpu" and logits.dtype == torch.bfloat16:
        summed: Tensor = _SummedCrossEntropy.apply(logits, targets)  # type: ignore[no-untyped-call]
        return summed
    return F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")


class _SummedCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy, computed in chunks of rows."""

    @staticmethod
    def forward(ctx: Any, logits: Float[Tensor, "N V"], targets: Int[Tensor, "N"]) -> Float[Tensor, ""]:
        chunk = max(1, CHUNK // logits.shape[1])
        logsumexp = torch.cat([rows.float().logsumexp(1) for rows in logits.split(chunk)])
        counted = targets != IGNORED
        wanted = logits.gather(1, targets.clamp(min=0)[:, None])[:, 0].float()
        ctx.save_for_backward(logits, targets, logsumexp)
        return torch.where(counted, logsumexp - wanted, 0.0).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        logits, targets, logsumexp = ctx.saved_tensors
        scale = torch.where(targets != IGNORED, gradients[0], 0.0)[:, None]
        chunk, gradient = max(1, CHUNK // logits.shape[1]), torch.empty_like(logits)
        parts = zip(
            *(each.split(chunk) for each in (logits, targets, logsumexp[:, None], scale, gradient)), strict=True
        )
        for rows, wanted, normaliser, factor, out in parts:
            shares = (rows.float() - normaliser).exp_()
            shares.scatter_add_(1, wanted.clamp(min=0)[:, None], torch.full_like(normaliser, -1.0))
            out.copy_(shares.mul_(factor))
        return gradient, None
