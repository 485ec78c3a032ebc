"""From the network's answers to the next codes of every sequence: guidance, then a draw, each with its own settings.

Tensors only: nothing here looks at a value, so it can be part of a captured graph.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model.decoding.sampling import draw, next_code_probabilities
from model.decoding.sequences import Task
from model.guidance import guide


@dataclass(frozen=True, eq=False)
class Drawings:
    """The settings of several sequences, as tensors."""

    answers: Int[Tensor, "B 3"]
    """Which rows of the logits are a sequence's answers: full, style, null. One that it was not asked for is another
    with a coefficient that leaves it without effect."""
    guidance: Float[Tensor, "B"]
    guidance_text: Float[Tensor, "B"]
    temperature: Float[Tensor, "B"]
    top_k: Int[Tensor, "B"]
    top_p: Float[Tensor, "B"]

    @classmethod
    def of(cls, tasks: Sequence[Task], first_rows: Sequence[int], device: torch.device) -> "Drawings":
        """Of tasks whose rows begin at these."""
        # With one answer all three are that one; with two, style is full: what guidance sets apart is then nothing.
        answers = [
            [row, row + (1 if task.rows == 3 else 0), row + task.rows - 1]
            for task, row in zip(tasks, first_rows, strict=True)
        ]
        how = [task.drawing for task in tasks]

        def single(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)

        return cls(
            torch.tensor(answers, device=device),
            single([one.guidance for one in how]),
            single([one.guidance_text for one in how]),
            single([one.temperature for one in how]),
            torch.tensor([one.top_k for one in how], device=device),
            single([one.top_p for one in how]),
        )


@dataclass(frozen=True, eq=False)
class Drawn:
    """The next codes, and whether the logits that they were drawn from were numbers."""

    codes: Int[Tensor, "B K"]
    finite: Bool[Tensor, ""]


def draw_codes(
    logits: Float[Tensor, "R K V"], how: Drawings, uniform: Float[Tensor, "B K"], largest: int | None
) -> Drawn:
    """The next codes of every sequence; `largest` is that of `model.decoding.sampling.next_code_probabilities`."""
    guided = guide(logits.float()[how.answers], how.guidance, how.guidance_text)
    probabilities = next_code_probabilities(guided, how.temperature, how.top_k, how.top_p, largest)
    return Drawn(draw(probabilities, uniform), guided.isfinite().all())


def largest_top_k(tasks: Sequence[Task]) -> int | None:
    """The largest `top_k` that counts; None where entries have to be sorted."""
    drawings = [task.drawing for task in tasks]
    if any(how.top_p > 0 and how.temperature > 0 for how in drawings):
        return None
    return max((how.top_k for how in drawings if how.temperature > 0), default=1)
