"""Drawing the next codes: temperature, top-k, top-p, each row with its own settings and its own luck.

A code is drawn by inverting the cumulative distribution at a uniform number that the caller drew beforehand. So the
randomness of a row is a table that depends on its seed alone, and is the same on every device.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def next_code_probabilities(
    logits: Float[Tensor, "B K V"],
    temperature: Float[Tensor, "B"],
    top_k: Int[Tensor, "B"],
    top_p: Float[Tensor, "B"],
    largest: int | None = None,
) -> Float[Tensor, "B K V"]:
    """The distribution that codes are drawn from (AudioCraft: `sample_top_k`, `sample_top_p`).

    Temperature 0 is greedy: all on the largest logit. `top_p` > 0 keeps the likeliest entries until those before an
    entry sum to more than it, and goes before `top_k` > 0, which keeps all that are as likely as the k-th (ties stay).

    Where no row has a `top_p`, `largest` may say that no row that is not greedy has a larger `top_k`: then the entries
    need not be sorted, which takes several times as long.
    """
    size = logits.shape[-1]
    greedy = temperature == 0
    scaled = logits.float() / torch.where(greedy, 1.0, temperature)[:, None, None]
    probabilities = scaled.softmax(-1)
    if largest is None:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        keep_p = torch.zeros_like(probabilities, dtype=torch.bool).scatter(-1, order, before <= top_p[:, None, None])
    else:
        ordered = probabilities.topk(max(1, min(largest, size)), dim=-1).values
        keep_p = torch.ones_like(probabilities, dtype=torch.bool)
    last = (top_k.clamp(1, ordered.shape[-1]) - 1)[:, None, None].expand(-1, logits.shape[1], 1)
    keep_k = (probabilities >= ordered.gather(-1, last)) | (top_k == 0)[:, None, None]
    keep = torch.where((top_p > 0)[:, None, None], keep_p, keep_k)
    kept = probabilities * keep
    kept = kept / kept.sum(-1, keepdim=True)
    best = torch.zeros_like(kept).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    return torch.where(greedy[:, None, None], best, kept)


def draw(probabilities: Float[Tensor, "B K V"], uniform: Float[Tensor, "B K"]) -> Int[Tensor, "B K"]:
    """The entry whose share of the cumulative distribution holds `uniform`, which is in [0, 1)."""
    cumulative = probabilities.double().cumsum(-1)
    total = cumulative[..., -1:]
    # Rounding may bring the product up to the total, past every entry.
    aim = torch.minimum(uniform.double()[..., None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, aim, right=True)[..., 0]
