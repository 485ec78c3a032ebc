"""Classifier-free guidance: which conditions a model reads for one request, and how its logits are combined
(arXiv:2207.12598; in MusicGen arXiv:2306.05284, 3.1).

The model predicts twice, with all conditions and with none. These are two branches, and guidance exaggerates their
difference. When text and audio are both given, the text can be exaggerated further (double guidance, MusicGen-Style,
arXiv:2407.12563, 3.3). This takes a third branch, the *style*, which has every condition but the text.

    guided = null + guidance * (style + guidance_text * (full - style) - null)

The branches are either the rows of one forward pass or separate passes. In one pass, the null condition is padded to
the length of the others; in a pass of its own, it keeps its own length. The length of a prefix shifts the positions of
the codes, so the two forms sample from different distributions. In AudioCraft, two passes always use the model's own
coefficient; here both forms use the coefficient of the request.
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
    """Return the number of branches of a model with conditions: 3 (full, style, null) for double guidance, 2 (full,
    null) for plain guidance, and 1 (full) where both coefficients are 1, because guidance then changes nothing."""
    if guidance_text != 1:
        return 3
    return 1 if guidance == 1 else 2


def condition_passes(
    model: MusicModel, attributes: Attributes, form: GuidanceForm, guidance: float, guidance_text: float
) -> list[dict[str, Condition]]:
    """Embed the conditions of one request; return one mapping for each forward pass.

    The rows of all passes together are the branches that `num_cfg_branches` counts, in the order full, style, null. A
    model without conditions gets one pass with an empty mapping.

    Raises:
        ValueError: the model does not read one of the conditions, or double guidance is asked of a model that does not
            read both a description and another condition.
    """
    known = model.config.conditions
    if guidance_text != 1 and (TEXT not in known or len(known) < 2):
        condition_names = ", ".join(known) or "no conditions"
        raise ValueError(
            f"expected a model that reads a {TEXT} and other conditions for a guidance_text of {guidance_text:g}, got "
            f"one that reads {condition_names}"
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
    """Combine the logits of W branches: full (W = 1), full and null (2), or full, style and null (3).

    A coefficient of 1 returns the logits that it extrapolates towards, bit for bit.
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
