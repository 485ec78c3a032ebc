"""A piece of the demo corpus as a score: everything that is known about it before a sample is made."""

from dataclasses import dataclass

from stages.demo.synthesis.theory import Key

FAST = 100
"""Beats a minute from which a piece counts as fast."""


@dataclass(frozen=True)
class Note:
    """One note: onset and duration in seconds, MIDI pitch, loudness between 0 and 1."""

    onset: float
    duration: float
    pitch: int
    velocity: float = 1.0


@dataclass(frozen=True)
class Chord:
    """One chord of the progression: onset and duration in seconds, its name, its scale degree, its MIDI pitches."""

    onset: float
    duration: float
    name: str
    degree: int
    pitches: tuple[int, int, int]


@dataclass(frozen=True)
class Hit:
    """One stroke on a drum: onset in seconds, drum of `stages.demo.synthesis.drums`, loudness between 0 and 1."""

    onset: float
    drum: str
    velocity: float


@dataclass(frozen=True)
class Piece:
    """A score and what a catalog would say of it. The same (seed, index) always gives the same piece."""

    seed: int
    index: int
    title: str
    artist: str
    genre: str
    moods: tuple[str, ...]
    key: Key
    tempo: float
    """Beats a minute (quarter notes)."""
    beats_per_bar: int
    seconds: float
    lead: str
    """Instrument of the melody."""
    accompaniment: str
    """Instrument of the chords."""
    bass: str
    """Instrument of the bass line."""
    chords: tuple[Chord, ...]
    melody: tuple[Note, ...]
    accompaniment_notes: tuple[Note, ...]
    bass_notes: tuple[Note, ...]
    hits: tuple[Hit, ...]

    @property
    def is_fast(self) -> bool:
        """Whether a listener would call the piece fast."""
        return self.tempo >= FAST

    @property
    def instruments(self) -> tuple[str, ...]:
        """Everything that sounds, the melody first."""
        return (self.lead, self.accompaniment, self.bass) + (("drums",) if self.hits else ())
