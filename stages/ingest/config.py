"""The knobs of ingest: which recordings of a source are taken, and how they are split."""

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

import schemas
from schemas.licences import LicencePolicy
from schemas.queries.conditions import Conditions
from schemas.tables import TRACKS
from stages.audio.decoders import MAX_CHANNELS, MAX_SAMPLE_RATE
from stages.audio.tolerances import MAX_DAMAGE
from stages.ingest.choosing import EXCLUDED


class Limits(schemas.Config):
    """Limits that a recording must keep to be taken."""

    min_seconds: float = Field(default=0.5, gt=0)
    """Shorter recordings are refused, seconds: a loudness needs 0.4 s, and there is no music to learn in less."""
    max_seconds: float = Field(default=4 * 3600.0, gt=0)
    """Longer recordings are refused, seconds. Stages after this one hold a whole recording in memory."""
    max_channels: int = Field(default=32, ge=1, le=MAX_CHANNELS)
    """Recordings with more channels are refused."""
    min_sample_rate: int = Field(default=8_000, ge=4_000)
    """Recordings with a lower sample rate are refused, Hz: little music is left in them, and loudness is not
    defined."""
    max_sample_rate: int = Field(default=384_000, le=MAX_SAMPLE_RATE)
    """Recordings with a higher sample rate are refused, Hz."""
    max_damage: float = Field(default=MAX_DAMAGE, ge=0, le=1)
    """Recordings are refused if a larger share of them is lost to damage. A smaller loss becomes silence of the same
    length, with a warning; 1 % of three minutes is two seconds."""
    max_peak: float = 6.0
    """Recordings with a sample above this are refused as not scaled, dBFS. Lossy coders add a few dB to a loud master;
    integers that were stored as floats have +90."""
    silent: Literal["reject", "keep"] = "reject"
    """What to do with a recording that is silent from end to end (no window of 50 ms reaches an RMS of -60 dBFS)."""
    generated: Literal["reject", "keep"] = "reject"
    """What to do with a file whose tags, XMP or content credentials say that a trained model made it or a part of it,
    such as clips of a catalog among the recordings. A model that learns from what models made gets worse with every
    round (arXiv:2305.17493). If it is kept, `warnings` says so."""


class Config(schemas.Config):
    """Which recordings are taken, and how they are split."""

    # These change which rows there are and what their metadata says; no sound is read again for that.
    NOT_IDENTITY: ClassVar[tuple[str, ...]] = ("include", "exclude", "captions", "accept", "licences")

    include: tuple[str, ...] = ()
    """Glob patterns of the recordings that are taken, as in `.gitignore`: `*.flac` anywhere, `live/**/*.wav` by the
    path from the source. None means all."""
    exclude: tuple[str, ...] = EXCLUDED
    """Glob patterns of files and folders that are passed over, with a remark. The default is what systems and programs
    leave behind: hidden files, thumbnails, recycle bins."""
    captions: Literal["none", "template"] = "none"
    """The description of tracks that have none: none, or a sentence made from what is known of genre, moods,
    instruments, tempo, key and loudness. `tracks.description_source` says which descriptions were made so."""
    limits: Limits = Limits()
    """Limits that a recording must keep to be taken."""
    accept: tuple[str, ...] = ()
    """Conditions that a measured recording must meet to be a track, in SQL over the columns of `tracks`, such as
    `bandwidth > 12000 AND clipping < 0.001`; all must be true. A recording that fails becomes a row of `withheld`, with
    a reject that says which condition failed and why. Changing the conditions moves rows and reads no sound."""
    licences: LicencePolicy = LicencePolicy()
    """Which licences a track may have. Recordings that fail are withheld, as with `accept`. Stages that train follow
    the same policy unless they are given their own, and check it again."""
    shard_size: int = Field(default=512, ge=1)
    """Tracks in a shard: the unit of work of every stage after this one."""
    near_duplicates: float | None = Field(default=0.4, gt=0, le=1)
    """How much of the shorter of two recordings must sound the same as a part of the other, 0 to 1, for them to count
    as copies (re-encoded, cut, quieter, 1 % faster), which share a split. Copies of real recordings reach at least
    0.59, distinct recordings at most 0.04. The demo's pieces share chords and instruments and reach up to 0.79, so the
    miniature has 0.8. None compares nothing."""
    valid: float = Field(default=0.05, ge=0, le=0.5)
    """Share of artists (of tracks, where no artist is known) in the split `valid`."""
    test: float = Field(default=0.05, ge=0, le=0.5)
    """Share of artists (of tracks, where no artist is known) in the split `test`."""

    @field_validator("accept", mode="before")
    @classmethod
    def _one_condition(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("accept")
    @classmethod
    def _check_conditions(cls, conditions: tuple[str, ...]) -> tuple[str, ...]:
        if conditions:
            Conditions(conditions, TRACKS.schema)
        return conditions
