"""From logits to the next codes: guidance, temperature, top-k, top-p, each sequence with its own settings.

A code is sampled by inverting the cumulative distribution at a uniform number that the caller took from its generator
beforehand. So the randomness of a sequence is a table that depends on its seed alone, and is the same on every device.
Nothing here looks at a value of a tensor, so it can be part of a captured graph.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model.decoding.sequences import SequenceRequest
from model.guidance import apply_guidance


def next_code_probabilities(
    logits: Float[Tensor, "B K V"],
    temperature: Float[Tensor, "B"],
    top_k: Int[Tensor, "B"],
    top_p: Float[Tensor, "B"],
    largest: int | None = None,
) -> Float[Tensor, "B K V"]:
    """Return the distribution that codes are sampled from (AudioCraft: `sample_top_k`, `sample_top_p`).

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


def sample_by_inversion(probabilities: Float[Tensor, "B K V"], uniform: Float[Tensor, "B K"]) -> Int[Tensor, "B K"]:
    """Return the entry whose share of the cumulative distribution holds `uniform`, which is in [0, 1)."""
    cumulative = probabilities.double().cumsum(-1)
    total = cumulative[..., -1:]
    # Rounding may bring the product up to the total, past every entry.
    level = torch.minimum(uniform.double()[..., None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, level, right=True)[..., 0]


@dataclass(frozen=True, eq=False)
class SamplingBatch:
    """The sampling parameters of several sequences, as tensors."""

    branches: Int[Tensor, "B 3"]
    """Which rows of the logits are a sequence's branches: full, style, null. One that it does not have is another one,
    with a coefficient that leaves it without effect."""
    guidance: Float[Tensor, "B"]
    guidance_text: Float[Tensor, "B"]
    temperature: Float[Tensor, "B"]
    top_k: Int[Tensor, "B"]
    top_p: Float[Tensor, "B"]

    @classmethod
    def of(
        cls, requests: Sequence[SequenceRequest], first_rows: Sequence[int], device: torch.device
    ) -> "SamplingBatch":
        """Gather the parameters of requests whose rows begin at `first_rows`."""
        # With one branch all three are that one; with two, style is full: what guidance sets apart is then nothing.
        branches = [
            [row, row + (1 if request.rows == 3 else 0), row + request.rows - 1]
            for request, row in zip(requests, first_rows, strict=True)
        ]
        params = [request.sampling for request in requests]

        def as_float32(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)

        return cls(
            torch.tensor(branches, device=device),
            as_float32([row.guidance for row in params]),
            as_float32([row.guidance_text for row in params]),
            as_float32([row.temperature for row in params]),
            torch.tensor([row.top_k for row in params], device=device),
            as_float32([row.top_p for row in params]),
        )


@dataclass(frozen=True, eq=False)
class SampledTokens:
    """The next codes, and whether the logits that they were sampled from were numbers."""

    codes: Int[Tensor, "B K"]
    finite: Bool[Tensor, ""]


def sample_tokens(
    logits: Float[Tensor, "R K V"], batch: SamplingBatch, uniform: Float[Tensor, "B K"], largest: int | None
) -> SampledTokens:
    """Sample the next codes of every sequence; `largest` is that of `next_code_probabilities`."""
    guided = apply_guidance(logits.float()[batch.branches], batch.guidance, batch.guidance_text)
    probabilities = next_code_probabilities(guided, batch.temperature, batch.top_k, batch.top_p, largest)
    return SampledTokens(sample_by_inversion(probabilities, uniform), guided.isfinite().all())


def largest_top_k(requests: Sequence[SequenceRequest]) -> int | None:
    """Return the largest `top_k` that has an effect; None where a `top_p` has one, and entries have to be sorted."""
    params = [request.sampling for request in requests if request.sampling.temperature > 0]
    if any(row.top_p > 0 for row in params):
        return None
    return max((row.top_k for row in params), default=1)
