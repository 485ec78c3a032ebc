"""The knobs of the gate: how a take is made again, and what a clip must keep to.

The limits' defaults come of real recordings, none of which fails one: of twelve recordings of 14 to 112 s (orchestral
and electronic, MP3 and Ogg Vorbis) and of 98 excerpts of 10 s of them, every 5 s (docs/gates.md).
"""

from typing import Literal

from pydantic import Field

import schemas
from schemas import WeightsRef
from stages.checkpoints.generation_config import GenerationConfig
from stages.networks.published import ENCODEC_32KHZ


class Limits(schemas.Config):
    """What a clip must keep to; None lets everything pass. All is measured of what the codec gave, before its loudness
    is touched."""

    head_silence: float | None = Field(default=2.0, ge=0)
    """Longest silence at the beginning, seconds, in windows of 50 ms under -60 dBFS; the recordings have 0.8."""
    tail_silence: float | None = Field(default=5.0, ge=0)
    """Longest silence at the end, seconds; the recordings have 4.1 at most, where the last chord dies away."""
    silent_share: float | None = Field(default=0.2, ge=0, le=1)
    """The largest share of a clip that may be silent at either end, from half a second on: 0.09 in recordings."""
    zeros: float | None = Field(default=0.25, ge=0, le=1)
    """Largest share of samples under half a step of 16 bits, which is digital silence; the recordings have 0.09."""
    loudness: float | None = Field(default=-46.0, ge=-70, le=0)
    """Integrated loudness, LUFS, under which a clip counts as silent: 30 dB (`decode.max_gain`) below
    `decode.loudness`, so that it would not reach that. The quietest excerpt has -34.5."""
    clipping: float | None = Field(default=0.001, ge=0, le=1)
    """Largest share of samples in flat tops, three or more in a row at full scale; the recordings have 0.00002."""
    true_peak: float | None = Field(default=3.0, ge=-20, le=40)
    """Highest true peak, dBTP; the recordings have 1.2 at most."""
    dc: float | None = Field(default=0.02, ge=0, le=1)
    """Largest mean of a channel, as a share of full scale: more clicks at both ends. The excerpts have 0.014."""
    end_noise: float | None = Field(default=0.3, ge=0, le=1)
    """By how much the last second may be flatter in its spectrum than all before (0 tones, 1 white noise); the excerpts
    have 0.04 at most."""
    seconds: float | None = Field(default=0.02, ge=0)
    """By how much the length may miss what was asked for, seconds."""
    seam: float | None = Field(default=2.0, ge=0)
    """How much the sound may change where decoding windows meet, in units of the largest change anywhere else in the
    clip. At 588 moments of the excerpts it is 1.6 at most."""
    held: float | None = Field(default=3.0, ge=0)
    """Longest stretch of sound in which no code changes, seconds; the demo's 133 clips have 1.5 at most. The silence at
    a recording's end is one frame held too, and is not counted."""
    looped: float | None = Field(default=3.0, ge=0)
    """Longest stretch of sound that repeats what was up to two seconds before, code by code, seconds; 0.6 of the
    recordings, and 1.0 of the demo's."""
    key_score: float | None = Field(default=None, ge=0, le=1)
    """Where a key is asked for, the least of MIREX's key score (1 the key, 0.5 a fifth off, 0.3 the relative key). Not
    judged by default: a detector errs as models do, and what it misses would be thrown away."""
    tempo: Literal["exact", "octave"] | None = None
    """Where a tempo is asked for, whether it must be heard within 4 %, or 2, 3, 1/2 or 1/3 times it will do. Not judged
    by default."""
    chord_accuracy: float | None = Field(default=None, ge=0, le=1)
    """Where chords are asked for, the least share of them that must sound. Not judged by default."""
    chroma_similarity: float | None = Field(default=None, ge=0, le=1)
    """Where a melody is given, the least share of frames whose strongest pitch class is the asked one. Not judged by
    default."""


class Config(schemas.Config):
    """How takes are judged, and made again where they do not pass."""

    retakes: int = Field(default=2, ge=0, le=100)
    """How often a take that does not pass is made again, each time with another seed; one that never passes is
    quarantined. A take that leaves nothing to chance is not made again."""
    limits: Limits = Limits()
    """What a clip must keep to."""
    codec: WeightsRef = ENCODEC_32KHZ
    """The codec that the model's codes belong to. In a recipe it is `tokenize.codec` unless it is given, or the codec
    inside `generate.checkpoint` where that is one from elsewhere."""
    generation: GenerationConfig = GenerationConfig()
    """What makes a take again. In a recipe it is `generate`, whole, unless it is given."""
