"""Classifier-free guidance: which conditions the model is asked with for one request, and what is made of its answers
(arXiv:2207.12598; in MusicGen arXiv:2306.05284, 3.1).

The model answers twice, with the conditions and without any, and what sets the answers apart is exaggerated. Where text
and audio are both given the text may be exaggerated further (double guidance, MusicGen-Style, arXiv:2407.12563, 3.3):
then it answers a third time, with every condition but the text, the *style*.

    guided = null + guidance * (style + guidance_text * (full - style) - null)

The answers come out of one pass over a batch, whose null is as long as the conditions are; or out of passes of their
own, where the null has the length that it has by itself. A prefix of another length moves the positions of the codes,
so the two are different distributions. AudioCraft's two passes take the model's own coefficient whatever the caller
asks for; here both heed the request.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from model.lm.language_model import Condition
from model.music_model import Attributes, MusicModel

GuidanceForm = Literal["one_pass", "two_pass"]
"""How the answers with and without conditions are computed."""

TEXT = "description"


def answers(guidance_text: float) -> int:
    """How often a model with conditions answers for one request: full, style (for double guidance), null."""
    return 2 if guidance_text == 1 else 3


def condition_passes(
    model: MusicModel, attributes: Attributes, form: GuidanceForm, guidance_text: float
) -> list[dict[str, Condition]]:
    """The embedded conditions of one request, a mapping a pass; the rows of all passes are full, (style,) null.

    A model without conditions has one pass over an empty mapping. Raises ValueError for conditions that the model does
    not read, or double guidance of a model without a description or with nothing else.
    """
    known = model.config.conditions
    if guidance_text != 1 and (TEXT not in known or len(known) < 2):
        has = ", ".join(known) or "no conditions"
        raise ValueError(
            f"expected a model that reads a {TEXT} and other conditions for a guidance_text of {guidance_text:g}, got "
            f"one that reads {has}"
        )
    rows = [attributes, Attributes()]
    if answers(guidance_text) == 3:
        rows.insert(1, attributes.without([TEXT]))
    batches: Sequence[list[Attributes]] = [rows] if form == "one_pass" or not known else [[row] for row in rows]
    return [model.condition(model.prepare(batch)) for batch in batches]


def guide(
    logits: Float[Tensor, "B W K V"], guidance: Float[Tensor, "B"], guidance_text: Float[Tensor, "B"]
) -> Float[Tensor, "B K V"]:
    """One answer out of W: of the full conditions alone (W = 1), with null (2), or with style and null (3).

    A coefficient of 1 is what it leads to itself, to the bit.
    """
    aim = logits[:, 0]
    if logits.shape[1] == 3:
        aim = _towards(logits[:, 1], aim, guidance_text)
    return aim if logits.shape[1] == 1 else _towards(logits[:, -1], aim, guidance)


def _towards(
    start: Float[Tensor, "B K V"], aim: Float[Tensor, "B K V"], scale: Float[Tensor, "B"]
) -> Float[Tensor, "B K V"]:
    """From the start to the aim, and past it."""
    scale = scale[:, None, None]
    return torch.where(scale == 1, aim, start + (aim - start) * scale)
