"""The knobs of the stage `controls`."""

from typing import ClassVar, Literal

from pydantic import Field

import schemas
from schemas import WeightsRef
from stages.networks.published import ENCODEC_32KHZ


class Config(schemas.Config):
    """How many of what is compared with the clips."""

    NOT_IDENTITY: ClassVar[tuple[str, ...]] = ("refresh",)

    codec: WeightsRef = ENCODEC_32KHZ
    """The codec of the store's codes. In a recipe it is `tokenize.codec` unless it is given, or the codec inside
    `generate.checkpoint` where that is one from elsewhere."""
    recordings: int = Field(default=128, ge=0)
    """Most held-out recordings that are scored raw and through the codec, each as long as the median request: with 100
    an interval is at most 20 points wide."""
    untrained: int = Field(default=16, ge=0)
    """Most requests, of each model, that a model of the same architecture and random weights generates too."""
    untrained_seed: int = Field(default=0, ge=0)
    """Where its weights come from."""
    swapped: int = Field(default=0, ge=0)
    """Most requests, of each model, that are generated with their own seed and another's conditions; 0 leaves the
    experiment out, as it costs as much as so many clips."""
    guidances: tuple[float, ...] = ()
    """Coefficients of guidance that requests are generated at besides their own, such as `[1,2,3,5]` (AudioCraft:
    `cfg_coef`)."""
    guided: int = Field(default=32, ge=1)
    """Most requests, of each model, that are generated at each of them."""
    refresh: Literal["missing", "changed", "never"] = "missing"
    """When a run of the whole catalog scores them anew: where there are none of this model, this codec and this
    configuration yet; also where requests or recordings changed; or never."""
