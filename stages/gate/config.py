"""The knobs of the gate: how a take is generated again, and the limits that a clip must keep.

The defaults of the limits come from real recordings, all of which keep them: twelve recordings of 14 to 112 s
(orchestral and electronic, MP3 and Ogg Vorbis), and 98 excerpts of them, 10 s long and 5 s apart (docs/gates.md).
"""

from typing import Literal

from pydantic import Field

import schemas
from schemas import WeightsRef
from stages.checkpoints.generation_config import GenerationConfig
from stages.networks.published import ENCODEC_32KHZ


class Limits(schemas.Config):
    """The limits that a clip must keep; None turns a limit off. All measures are of the codec's output, before its
    loudness is changed."""

    head_silence: float | None = Field(default=2.0, ge=0)
    """Longest silence at the beginning, seconds, in windows of 50 ms below -60 dBFS; the recordings have 0.8 at
    most."""
    tail_silence: float | None = Field(default=5.0, ge=0)
    """Longest silence at the end, seconds; the recordings have 4.1 at most, after the last chord has died away."""
    silent_share: float | None = Field(default=0.2, ge=0, le=1)
    """Largest share of a clip that may be silent at either end; half a second is always allowed. The recordings have
    0.09 at most."""
    zeros: float | None = Field(default=0.25, ge=0, le=1)
    """Largest share of samples below half a step of 16 bits, which is digital silence; the recordings have 0.08 at
    most."""
    loudness: float | None = Field(default=-46.0, ge=-70, le=0)
    """Integrated loudness, LUFS, below which a clip counts as silent: 30 dB (`decode.max_gain`) below
    `decode.loudness`, so that it could not be raised to that. The quietest excerpt has -34.5."""
    clipping: float | None = Field(default=0.001, ge=0, le=1)
    """Largest share of samples in flat tops, three or more in a row at full scale; the recordings have 0.00002."""
    true_peak: float | None = Field(default=3.0, ge=-20, le=40)
    """Highest true peak, dBTP; the recordings have 1.2 at most."""
    dc: float | None = Field(default=0.02, ge=0, le=1)
    """Largest absolute mean of a channel, as a share of full scale; a larger one clicks at both ends of the clip. The
    excerpts have 0.014 at most."""
    end_noise: float | None = Field(default=0.3, ge=0, le=1)
    """By how much the spectrum of the last second may be flatter than all before it (flatness is 0 for tones, 1 for
    white noise); the excerpts have 0.04 at most."""
    seconds: float | None = Field(default=0.02, ge=0)
    """Largest difference from the length that was asked for, seconds."""
    seam: float | None = Field(default=2.0, ge=0)
    """Largest change of the sound where decoding windows meet, in units of the largest change anywhere else in the
    clip. At 588 moments of the excerpts it is 1.6 at most."""
    held: float | None = Field(default=3.0, ge=0)
    """Longest stretch of sound in which no code changes, seconds; the demo's 133 clips have 1.5 at most. Silence at
    either end is not counted, although it is a held frame too."""
    looped: float | None = Field(default=3.0, ge=0)
    """Longest stretch of sound that repeats the codes of up to two seconds before, seconds; the recordings have 0.6 at
    most, the demo's clips 1.0."""
    key_score: float | None = Field(default=None, ge=0, le=1)
    """If a key is asked for, the lowest MIREX key score that passes (1 for the key, 0.5 a fifth off, 0.3 the relative
    key). Not judged by default: the detector errs too, and good clips would be thrown away by its errors."""
    tempo: Literal["exact", "octave"] | None = None
    """If a tempo is asked for: `exact` requires that it is detected within 4 %, `octave` also accepts 2, 3, 1/2 or 1/3
    times it. Not judged by default."""
    chord_accuracy: float | None = Field(default=None, ge=0, le=1)
    """If chords are asked for, the smallest share of them that must sound. Not judged by default."""
    chroma_similarity: float | None = Field(default=None, ge=0, le=1)
    """If a melody is given, the smallest share of frames whose strongest pitch class must be the asked one. Not judged
    by default."""


class Config(schemas.Config):
    """How takes are judged, and generated again if they do not pass."""

    retakes: int = Field(default=2, ge=0, le=100)
    """How often a take that does not pass is generated again, each time with another seed. A take that never passes is
    quarantined. A take whose sampling leaves nothing to chance is not generated again."""
    limits: Limits = Limits()
    """The limits that a clip must keep."""
    codec: WeightsRef = ENCODEC_32KHZ
    """The codec that decodes the model's codes. In a recipe it is `tokenize.codec` unless it is given, or the codec
    inside `generate.checkpoint` if that is one from elsewhere."""
    generation: GenerationConfig = GenerationConfig()
    """How takes are generated again. In a recipe it is the whole of `generate`, unless it is given."""
