"""From logits to the next codes: guidance, temperature, top-k, top-p, each sequence with its own settings.

A code is sampled by inverting the cumulative distribution at a uniform random number, which the caller drew beforehand.
So the random numbers of a sequence are a table that depends only on its seed, the same on every device. Nothing here
reads the value of a tensor on the host, so that sampling can be part of a captured graph.
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

    A temperature of 0 is greedy: the largest logit has all the probability. A `top_p` above 0 keeps an entry if the
    likelier entries sum to at most `top_p`; it takes precedence over `top_k`. A `top_k` above 0 keeps all entries that
    are at least as likely as the k-th (ties stay).

    Args:
        largest: an upper bound of `top_k` over all rows that are not greedy, where no row has a `top_p`. With it the
            entries need not be sorted, which would take several times as long. None sorts them.
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
    # By rounding, the product may reach the total, which is past every entry.
    level = torch.minimum(uniform.double()[..., None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, level, right=True)[..., 0]


@dataclass(frozen=True, eq=False)
class SamplingBatch:
    """The sampling parameters of several sequences, as tensors."""

    branches: Int[Tensor, "B 3"]
    """Rows of the logits that are a sequence's branches: full, style, null. A branch that the sequence does not have is
    replaced by another of its branches, so that the missing branch has no effect."""
    guidance: Float[Tensor, "B"]
    guidance_text: Float[Tensor, "B"]
    temperature: Float[Tensor, "B"]
    top_k: Int[Tensor, "B"]
    top_p: Float[Tensor, "B"]

    @classmethod
    def of(
        cls, requests: Sequence[SequenceRequest], first_rows: Sequence[int], device: torch.device
    ) -> "SamplingBatch":
        """Collect the parameters of requests; the rows of each begin at its entry of `first_rows`."""
        # With one branch, all three are that row. With two, style is full. The differences in guidance are then zero.
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
    """The next codes, and whether the logits that they were sampled from were finite."""

    codes: Int[Tensor, "B K"]
    finite: Bool[Tensor, ""]


def sample_tokens(
    logits: Float[Tensor, "R K V"], batch: SamplingBatch, uniform: Float[Tensor, "B K"], largest: int | None
) -> SampledTokens:
    """Sample the next codes of every sequence; `largest` is passed to `next_code_probabilities`."""
    guided = apply_guidance(logits.float()[batch.branches], batch.guidance, batch.guidance_text)
    probabilities = next_code_probabilities(guided, batch.temperature, batch.top_k, batch.top_p, largest)
    return SampledTokens(sample_by_inversion(probabilities, uniform), guided.isfinite().all())


def largest_top_k(requests: Sequence[SequenceRequest]) -> int | None:
    """Return the largest `top_k` of the requests that are not greedy; None if one of them has a `top_p`, which requires
    sorted entries."""
    params = [request.sampling for request in requests if request.sampling.temperature > 0]
    if any(row.top_p > 0 for row in params):
        return None
    return max((row.top_k for row in params), default=1)
