"""The cost of a precision of the weights in decoding: the share of unchanged greedy codes, and the cross-entropy of
random codes."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from model.kernels.packed_linear import prepare_for_inference
from model.lm.config import Precision
from model.lm.language_model import LanguageModel
from tests.benchmarks.peer import GUIDANCE, both_ways, descriptions, generate_ours
from tests.benchmarks.results import table


@dataclass(frozen=True)
class Quality:
    """The cost of a precision."""

    forced: float
    """Share of greedy codes that stay the same if every step reads float32's codes."""
    free: float
    """Share of greedy codes that stay the same if every step reads its own codes."""
    cross_entropy: float
    """Cross-entropy of random codes, nats."""


def qualities(model: LanguageModel, frames: int, precisions: tuple[Precision, ...]) -> dict[Precision, Quality]:
    """The cost of each precision, float32 first."""
    conditions = both_ways(descriptions(1, model.config.width).to(model.device))
    greedy = {
        name: generate_ours(model, 1, frames, name, time.perf_counter).codes.to(model.device) for name in precisions
    }
    own = greedy["float32"]
    random = torch.randint(0, model.config.cardinality, own.shape, generator=torch.Generator().manual_seed(2))
    random = random.to(model.device)
    found: dict[Precision, Quality] = {}
    best: Tensor | None = None
    for name, codes in greedy.items():
        inference = prepare_for_inference(model, name)
        with torch.inference_mode():
            prediction = inference(own.expand(2, -1, -1), conditions)
            conditioned, null = prediction.logits
            chosen = (null + GUIDANCE * (conditioned - null)).argmax(-1)[prediction.mask[0]]
            best = chosen if best is None else best
            loss = inference.loss(random.expand(2, -1, -1), conditions).mean.item()
        forced, free = ((one == two).float().mean().item() for one, two in ((chosen, best), (codes, own)))
        found[name] = Quality(forced, free, loss)
    return found


def as_table(found: dict[Precision, Quality], frames: int) -> str:
    """A Markdown table."""
    header = ("weights", f"greedy codes as in float32 over {frames} frames, reading float32's", "reading their own")
    rows = [[name, f"{one.forced:.4f}", f"{one.free:.4f}", f"{one.cross_entropy:.5f}"] for name, one in found.items()]
    return table((*header, "cross-entropy of random codes"), rows)
