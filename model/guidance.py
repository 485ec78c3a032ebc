"""Classifier-free guidance: which conditions a model reads for one request, and how its logits are combined
(arXiv:2207.12598; in MusicGen arXiv:2306.05284, 3.1).

The model predicts twice, with the conditions and without any: two branches, whose difference is exaggerated. Where text
and audio are both given the text may be exaggerated further (double guidance, MusicGen-Style, arXiv:2407.12563, 3.3):
then there is a third branch, with every condition but the text, the *style*.

    guided = null + guidance * (style + guidance_text * (full - style) - null)

The branches are the rows of one forward pass, whose null is as long as the conditions are; or each has a pass of its
own, where the null has the length that it has by itself. A prefix of another length moves the positions of the codes,
so the two are different distributions. AudioCraft's two passes take the model's own coefficient whatever the caller
asks for; here both heed the request.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from model.lm.fuser import Condition
from model.music_model import Attributes, MusicModel

GuidanceForm = Literal["one_pass", "two_pass"]
"""Whether the branches share a forward pass."""

TEXT = "description"


def num_cfg_branches(guidance: float, guidance_text: float) -> int:
    """Count the branches of a model with conditions: full, style (for double guidance), null; full alone where both
    coefficients are 1, for then guidance leads to what it says."""
    if guidance_text != 1:
        return 3
    return 1 if guidance == 1 else 2


def condition_passes(
    model: MusicModel, attributes: Attributes, form: GuidanceForm, guidance: float, guidance_text: float
) -> list[dict[str, Condition]]:
    """Embed the conditions of one request, a mapping a pass; the rows of all passes are full, style and null, or
    those of them that `num_cfg_branches` counts.

    A model without conditions has one pass over an empty mapping.

    Raises:
        ValueError: conditions that the model does not read, or double guidance of a model without a description or
            with nothing else.
    """
    known = model.config.conditions
    if guidance_text != 1 and (TEXT not in known or len(known) < 2):
        has = ", ".join(known) or "no conditions"
        raise ValueError(
            f"expected a model that reads a {TEXT} and other conditions for a guidance_text of {guidance_text:g}, got "
            f"one that reads {has}"
        )
    branches = {
        1: [attributes],
        2: [attributes, Attributes()],
        3: [attributes, attributes.without([TEXT]), Attributes()],
    }[num_cfg_branches(guidance, guidance_text)]
    passes: Sequence[list[Attributes]] = [branches] if form == "one_pass" or not known else [[row] for row in branches]
    return [model.condition(model.prepare(rows)) for rows in passes]


def apply_guidance(
    logits: Float[Tensor, "B W K V"], guidance: Float[Tensor, "B"], guidance_text: Float[Tensor, "B"]
) -> Float[Tensor, "B K V"]:
    """Combine the logits of W branches: full conditions alone (W = 1), with null (2), or with style and null (3).

    With a coefficient of 1 the result is what it leads to itself, to the bit.
    """
    target = logits[:, 0]
    if logits.shape[1] == 3:
        target = _extrapolate(logits[:, 1], target, guidance_text)
    return target if logits.shape[1] == 1 else _extrapolate(logits[:, -1], target, guidance)


def _extrapolate(
    start: Float[Tensor, "B K V"], target: Float[Tensor, "B K V"], scale: Float[Tensor, "B"]
) -> Float[Tensor, "B K V"]:
    scale = scale[:, None, None]
    return torch.where(scale == 1, target, start + (target - start) * scale)
