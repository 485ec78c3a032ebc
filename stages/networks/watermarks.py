"""Which watermark clips carry, and whose networks write and read it: the knobs, without the networks."""

from pydantic import Field

import schemas
from schemas import WeightsRef
from stages.networks.published import AUDIOSEAL_DETECTOR, AUDIOSEAL_GENERATOR

MESSAGE_BITS = 16
"""Bits that the published networks' messages have (arXiv:2401.17264, 3.3)."""


class Watermark(schemas.Config):
    """A watermark that is not heard and outlives another encoding, by AudioSeal (arXiv:2401.17264)."""

    generator: WeightsRef = AUDIOSEAL_GENERATOR
    """The network that makes the mark, a file in AudioSeal's form: the published one, or one that you trained, whose
    marks its own detector knows alone."""
    detector: WeightsRef | None = AUDIOSEAL_DETECTOR
    """The network that finds it, of the same training, by which the stage `watermark` measures what of it is left after
    MP3, Ogg Vorbis and resampling; null marks clips and measures nothing."""
    message: int = Field(default=0x5E60, ge=0, lt=2**MESSAGE_BITS)
    """What the mark says, 16 bits as a number: it tells one maker's clips from another's, and no clip from another."""
    strength: float = Field(default=1.0, gt=0, le=4)
    """The mark is multiplied by it (AudioSeal's `alpha`): more is found more surely, and damages more."""


def watermark_words(message: int) -> str:
    """Return how a file's tag names a watermark."""
    return f"AudioSeal {message:04x}"
