"""The knobs of the conditioners, and of the music model as a whole (MusicGen, arXiv:2306.05284, 2.3 and 2.4).

They are in a file without torch, so that a plan, which needs every knob, need not load torch.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from model.codec.config import QuantizerConfig
from model.lm.config import LanguageModelConfig
from schemas import Config

TEXT_FIELDS = ("genre", "moods", "keywords", "instrument", "artist", "album", "title", "key")
"""Names of conditions that are a label or a few words (AudioCraft's `MusicInfo` has the same)."""

NUMBER_FIELDS = ("bpm", "seconds")
"""Names of conditions that are a number: beats per minute, and the length of the piece."""

FIELDS = (*TEXT_FIELDS, *NUMBER_FIELDS)
"""Names of conditions that are a column of a track's metadata, in the order in which they are fused."""

FRAME_WISE = ("beat", "chords")
"""Names of conditions that have a vector for every frame of codes, which is added to the frame's step."""

CONDITIONS = ("description", *FIELDS, "chroma", "clap", *FRAME_WISE)
"""Names of all conditions, in the order in which they are fused."""


class TextConfig(Config):
    """A description read by a T5 encoder."""

    width: int = Field(768, ge=1)
    """Width of the encoder's output (t5-base)."""
    finetune: bool = False
    """Whether the encoder learns with the language model (AudioCraft: `finetune`)."""
    max_tokens: int = Field(512, ge=2)
    """Maximum length of a description in tokens; longer ones are cut (T5 was trained with 512)."""


class LabelConfig(Config):
    """A text that is read as a whole, such as a genre or an artist: a row of a table, found by hashing
    (AudioCraft: `LUTConditioner` with the tokenizer `noop`)."""

    kind: Literal["label"] = "label"
    """Kind of the field."""
    rows: int = Field(1000, ge=2)
    """Rows of the table (`n_bins`; nothing is published). Labels that fall on one row are the same to the model."""
    width: int = Field(64, ge=1)
    """E, width of the table (`dim`; nothing is published)."""


class WordsConfig(Config):
    """A text that is read word by word, such as moods or keywords: a row of a table for each word, found by hashing
    (AudioCraft: `LUTConditioner` with the tokenizer `whitespace`)."""

    kind: Literal["words"] = "words"
    """Kind of the field."""
    rows: int = Field(20_000, ge=2)
    """Rows of the table (`n_bins`; nothing is published). Words that fall on one row are the same to the model."""
    width: int = Field(64, ge=1)
    """E, width of the table (`dim`; nothing is published)."""


class NumberConfig(Config):
    """A number: waves over its range, then a projection. AudioCraft has no such condition; it follows the timing of
    Stable Audio (arXiv:2402.04825, 2.2), with the fixed waves of NeRF (arXiv:2003.08934, 5.1)."""

    kind: Literal["number"] = "number"
    """Kind of the field."""
    lowest: float
    """Lower end of the range, in the field's unit: beats a minute for bpm, seconds for seconds. A number outside the
    range counts as the nearer end, so that one odd tempo in a catalog does not stop a training."""
    highest: float
    """Upper end of the range, in the field's unit."""
    waves: int = Field(10, ge=1, le=24)
    """Number of sines, and of cosines: the first has half a period over the range, and each next one twice as many
    periods (NeRF: 10, which can distinguish numbers that differ by 1/512 of the range or more)."""

    @model_validator(mode="after")
    def _is_a_range(self) -> "NumberConfig":
        if not (math.isfinite(self.lowest) and math.isfinite(self.highest) and self.lowest < self.highest):
            raise ValueError(f"expected lowest below highest, both finite, got {self.lowest} and {self.highest}")
        return self


FieldConfig = Annotated[LabelConfig | WordsConfig | NumberConfig, Field(discriminator="kind")]
"""How a field becomes vectors."""


PITCH_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
"""Names of the twelve pitch classes, in the order of the bins of a chroma."""


CHORD_INTERVALS = {
    "maj": (0, 4, 7),
    "min": (0, 3, 7),
    "dim": (0, 3, 6),
    "aug": (0, 4, 8),
    "7": (0, 4, 7, 10),
    "maj7": (0, 4, 7, 11),
    "min7": (0, 3, 7, 10),
    "hdim7": (0, 3, 6, 10),
    "dim7": (0, 3, 6, 9),
    "minmaj7": (0, 3, 7, 11),
    "sus2": (0, 2, 7),
    "sus4": (0, 5, 7),
    "maj6": (0, 4, 7, 9),
    "min6": (0, 3, 7, 9),
}
"""Qualities of chords by their names in Harte's syntax (C. Harte et al., "Symbolic representation of musical chords",
ISMIR 2005), with the semitones of their notes above the root. A chord is a root (a pitch class, 0 = C as in
`PITCH_NAMES`), a quality, and a bass: the pitch class of its lowest note, which is the root unless the chord is
inverted."""

CHORD_QUALITIES = tuple(CHORD_INTERVALS)
"""The names of the qualities, in the order in which a condition holds them."""

NO_CHORD, NO_ROOT = "N", -1
"""Quality, and root and bass, of a passage where no chord sounds (Harte's `N`)."""


class ChromaConfig(Config):
    """How the chroma of a sound is measured; the defaults are those of MusicGen's melody models."""

    sample_rate: int = Field(32_000, ge=8_000)
    """Rate to which sound is resampled first, Hz (AudioCraft: `chroma_stem.sample_rate`)."""
    window: int = Field(16_384, ge=256)
    """STFT window, samples at `sample_rate` (arXiv:2306.05284, 4.1: 2^14)."""
    hop: int = Field(4_096, ge=64)
    """Samples at `sample_rate` from one frame to the next (arXiv:2306.05284, 4.1: 2^12)."""

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sample_rate / self.hop

    def frames(self, seconds: float | int) -> int:
        """Return the number of frames of a sound of `seconds` seconds, including the frame at its end."""
        return int(self.sample_rate * seconds) // self.hop + 1


class MelodyConfig(Config):
    """A melody: the pitch class that dominates each frame."""

    analysis: ChromaConfig = ChromaConfig()
    """How melodies are measured, in training and in requests. A recipe takes this from the stage `chroma`."""
    frames: int = Field(ChromaConfig().frames(30.0), ge=1)
    """Frames of the condition at `frame_rate` (30 s); a longer melody is cut."""
    frame_rate: float = Field(ChromaConfig().frame_rate, gt=0)
    """Frames a second of the condition. With the frame rate of the codec, a melody is frame-wise, so that `sum` adds to
    every step the pitch that sounds there."""
    match_length: bool = True
    """Whether a shorter melody is repeated from its start up to `frames` (AudioCraft: `match_len_on_eval`). Otherwise
    it keeps its length, and its padding to the longest of a batch is masked."""
    null: Literal["zeros", "first_bin"] = "zeros"
    """How a missing melody is represented: `zeros`, unlike any melody, or `first_bin`, the projection of an endless C,
    as in musicgen-melody."""
    one_hot: bool = True
    """Whether only the strongest pitch class of a frame counts (AudioCraft: `chroma_stem.argmax`), so that the melody
    holds nothing of the timbre (arXiv:2306.05284, 2.3)."""

    @model_validator(mode="after")
    def _null_has_a_length(self) -> "MelodyConfig":
        if self.null == "first_bin" and not self.match_length:
            raise ValueError("expected null = zeros for melodies that keep their length, got null = first_bin")
        return self


class JointQuantizerConfig(Config):
    """Residual quantisation of joint embeddings. It maps embeddings of text and of audio, which are far apart in the
    joint space, to the same few vectors. The defaults are AudioCraft's `clapemb2music`."""

    codebooks: int = Field(12, ge=1)
    """Levels (`n_q`)."""
    cardinality: int = Field(1024, ge=2)
    """Entries of a codebook (`bins`)."""
    learning: QuantizerConfig = QuantizerConfig()
    """How the codebooks learn from the embeddings that pass."""

    @model_validator(mode="after")
    def _every_level_counts(self) -> "JointQuantizerConfig":
        if self.learning.dropout:
            raise ValueError(f"expected learning.dropout = 0 for joint embeddings, got {self.learning.dropout}")
        return self


class ClapConfig(Config):
    """A point of the joint space of text and audio (LAION-CLAP, arXiv:2211.06687)."""

    width: int = Field(512, ge=1)
    """E, width of the embedding."""
    quantizer: JointQuantizerConfig | None = None
    """Residual quantisation before the projection; None projects the embedding itself."""


class BeatConfig(Config):
    """The position of every frame of codes in its beat and in its bar, as angles. AudioCraft has no such condition;
    MusiConGen (arXiv:2407.15060) has beats and downbeats frame by frame too, as pulses."""

    waves: int = Field(3, ge=1, le=8)
    """Number of sines, and of cosines, of the position in the beat: the first has one period a beat, and each next one
    twice as many, so that a projection can distinguish halves and quarters of a beat. The position in the bar has one
    sine and one cosine."""

    @property
    def width(self) -> int:
        """E, numbers of a frame: those of the beat, then sine and cosine of the bar."""
        return 2 * self.waves + 2


class ChordsConfig(Config):
    """The chord that sounds at every frame of codes. AudioCraft's MusicGen has no such condition. As in MusiConGen
    (arXiv:2407.15060) it is summed at the codec's frame rate. JASCO (arXiv:2406.10970) has a table with a row for each
    chord; here chords share their root, quality, bass and notes, so that rare chords are learned from others too."""

    @property
    def width(self) -> int:
        """E, numbers of a frame: one-hot root, quality or "no chord", and bass; then which of the 12 pitch classes
        sound."""
        return len(PITCH_NAMES) + len(CHORD_QUALITIES) + 1 + 2 * len(PITCH_NAMES)


class MusicModelConfig(Config):
    """A language model and the conditions it reads; the defaults are musicgen-small."""

    language_model: LanguageModelConfig = LanguageModelConfig()
    """The decoder; its `cross`, `prepend`, `sum` and `interpolate` determine how each condition joins."""
    description: TextConfig | None = TextConfig()
    """The text condition; None for a model without."""
    fields: dict[str, FieldConfig] = Field({})
    """Conditions on other metadata, by name in `FIELDS`, always in the order of `FIELDS`. The value None removes a
    field of a preset."""
    chroma: MelodyConfig | None = None
    """The melody condition; None for a model without."""
    clap: ClapConfig | None = None
    """The condition on joint embeddings; None for a model without."""
    beat: BeatConfig | None = None
    """The frame-wise condition on the position in beat and bar; None for a model without."""
    chords: ChordsConfig | None = None
    """The frame-wise condition on chords; None for a model without."""

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the conditions, in the order in which they are fused."""
        return tuple(
            name for name in CONDITIONS if (name in self.fields if name in FIELDS else getattr(self, name) is not None)
        )

    @field_validator("fields", mode="before")
    @classmethod
    def _none_is_no_field(cls, fields: Any) -> Any:
        if not isinstance(fields, Mapping):
            return fields
        return {name: config for name, config in fields.items() if config is not None}

    @field_validator("fields")
    @classmethod
    def _fields_are_known(cls, fields: dict[str, FieldConfig]) -> dict[str, FieldConfig]:
        for name, config in fields.items():
            if name not in FIELDS:
                raise ValueError(f"expected fields among {list(FIELDS)}, got {name!r}")
            if (name in NUMBER_FIELDS) != (config.kind == "number"):
                wanted = "a number" if name in NUMBER_FIELDS else "a label or words"
                raise ValueError(f"expected the field {name} to be {wanted}, got the kind {config.kind}")
        # Always in one order: recipes that differ only in the order of fields are equal, so their models must be.
        return {name: fields[name] for name in FIELDS if name in fields}

    @model_validator(mode="after")
    def _all_are_fused(self) -> "MusicModelConfig":
        if frozenset(self.conditions) != self.language_model.conditions:
            raise ValueError(
                f"expected the language model to fuse {sorted(self.conditions)}, "
                f"got cross, prepend, sum and interpolate of {sorted(self.language_model.conditions)}"
            )
        for name in FRAME_WISE:
            if name in self.conditions and name not in self.language_model.sum:
                raise ValueError(
                    f"expected {name}, which has a vector for every frame of codes, in language_model.sum, "
                    f"got it elsewhere"
                )
        for name in self.language_model.sum:
            if self._varies(name):
                raise ValueError(
                    f"expected conditions of fixed length in language_model.sum, got {name}, which is as long as its "
                    f"text or melody"
                )
        return self

    def _varies(self, name: str) -> bool:
        """Return whether the length of a condition depends on the item."""
        if name == "chroma":
            return self.chroma is not None and not self.chroma.match_length
        return name == "description" or (name in self.fields and self.fields[name].kind == "words")
