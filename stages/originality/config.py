"""The knobs of originality: how similar a clip may be to what its model learned from."""

from pydantic import Field

import schemas


class Config(schemas.Config):
    """The limits beyond which a clip is too near to a recording or to another clip."""

    code_seconds: float = Field(default=2.0, gt=0)
    """Seconds of equal codes in one run from which on a clip is too near to a recording that its model learned from. If
    held-out recordings have more in common with the same recordings, their value is the limit (`quantile`). MusicGen's
    memorisation experiment (arXiv:2306.05284) looks at 5 s after a prompt."""
    sound_seconds: float = Field(default=3.0, gt=0)
    """The same limit for seconds of equal sound: the length of a passage times the share of its peaks that are in the
    recording. The demo's distinct pieces, on the same chords and instruments, reach 2 to 4 (docs/originality.md)."""
    quantile: float = Field(default=0.99, ge=0.5, le=1)
    """A clip is too near if it has more in common with the training data than this share of held-out recordings."""
    held_out: int = Field(default=200, ge=0)
    """Most held-out recordings that are compared. As much of each is used as clips are long."""
    duplicates: float | None = Field(default=0.9, gt=0, le=1)
    """Share of the shorter of two clips, 0 to 1, that must be in the other by its sound for the later clip to be a
    duplicate, which is also left out of the catalog. None leaves no duplicates out."""
