"""The knobs of the watermark in clips: its message, and the networks that add and detect it. Loads no networks."""

from pydantic import Field

import schemas
from schemas import WeightsRef
from stages.networks.published import AUDIOSEAL_DETECTOR, AUDIOSEAL_GENERATOR

MESSAGE_BITS = 16
"""Bits of a message of the published networks (arXiv:2401.17264, 3.3)."""


class Watermark(schemas.Config):
    """An inaudible watermark that survives another encoding, by AudioSeal (arXiv:2401.17264)."""

    generator: WeightsRef = AUDIOSEAL_GENERATOR
    """The network that makes the mark, a file in AudioSeal's form: the published one, or one that you trained, whose
    marks only its own detector finds."""
    detector: WeightsRef | None = AUDIOSEAL_DETECTOR
    """The network that detects the mark, trained together with the generator. With it the stage `watermark` measures
    what is left of the mark after MP3, Ogg Vorbis and resampling; null marks clips and measures nothing."""
    message: int = Field(default=0x5E60, ge=0, lt=2**MESSAGE_BITS)
    """The message of the mark, 16 bits as a number. It tells one maker's clips from another's, but not one clip from
    another."""
    strength: float = Field(default=1.0, gt=0, le=4)
    """Factor of the mark (AudioSeal's `alpha`): a stronger mark is detected more reliably, and damages the sound
    more."""


def watermark_words(message: int) -> str:
    """Return the name of a watermark in a file's tag."""
    return f"AudioSeal {message:04x}"
