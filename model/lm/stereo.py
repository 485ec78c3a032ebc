"""A stereo model out of a mono one (MusicGen's stereo models, arXiv:2306.05284, and AudioCraft's `stereo_finetune`).

A codec that knows one channel encodes left and right each on its own, and their codes take turns: codebook 2k is the
left channel's codebook k, 2k + 1 the right one's. Both get a copy of what the mono model knows of codebook k. Inputs
are sums of embeddings, so the copies of an embedding are halved: with the same codes on both sides every layer sees
what it saw in mono, and each head says what it said. Training from there only has to learn how the sides differ.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from model.lm.config import LanguageModelConfig

_BY_CODEBOOK = re.compile(r"(?P<kind>language_model\.(?:embeddings|heads)\.)(?P<codebook>\d+)(?P<rest>\.\w+)")


def stereo_configuration(mono: LanguageModelConfig) -> LanguageModelConfig:
    """The decoder with each codebook twice, the two equally late: delays 0, 1, 2, 3 become 0, 0, 1, 1, 2, 2, 3, 3.

    Raises ValueError for a pattern other than `delay`, or one that opens with flattened frames: these order codebooks
    in ways that have no such double.
    """
    if mono.pattern != "delay":
        raise ValueError(f"expected a mono model with the pattern delay to make stereo of, got {mono.pattern}")
    if mono.flatten_first:
        raise ValueError(f"expected a mono model without flatten_first to make stereo of, got {mono.flatten_first}")
    delays = tuple(delay for delay in mono.codebook_delays for _ in ("left", "right"))
    return mono.model_copy(update={"codebooks": 2 * mono.codebooks, "delays": delays})


def stereo_weights(mono: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a stereo model (`MusicModel.weights`) out of those of a mono one; what belongs to no codebook is
    the same tensor."""
    found: dict[str, Tensor] = {}
    for name, value in mono.items():
        match = _BY_CODEBOOK.fullmatch(name)
        if match is None:
            found[name] = value
            continue
        copied = value / 2 if match["kind"].endswith("embeddings.") else value
        for side in range(2):
            found[f"{match['kind']}{2 * int(match['codebook']) + side}{match['rest']}"] = copied.clone()
    return found
