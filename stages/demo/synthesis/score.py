"""A piece of the demo corpus as a score: everything that is known about it before a sample is made. There is also the
harmony that this needs: keys, scales and diatonic triads, in equal temperament except for tones of the sounding chord.

Pitches are MIDI note numbers (60 is middle C, 69 is A at 440 Hz); pitch classes count semitones above C."""

from dataclasses import dataclass
from fractions import Fraction

from model.conditioning.config import PITCH_NAMES

SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
"""Semitones of the seven degrees above the tonic (minor is the natural minor)."""

PROGRESSIONS = {
    "major": ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 4, 3), (5, 3, 0, 4), (0, 2, 3, 4)),
    "minor": ((0, 5, 2, 6), (0, 3, 4, 0), (0, 6, 5, 6), (0, 3, 6, 2), (0, 5, 3, 4)),
}
"""Chord progressions as scale degrees from 0, for instance (0, 4, 5, 3) is I-V-vi-IV in major."""


@dataclass(frozen=True)
class Key:
    """A tonic (pitch class 0-11) and a mode of `SCALES`."""

    tonic: int
    mode: str

    @property
    def name(self) -> str:
        """The key in words, for instance 'A minor'."""
        return f"{PITCH_NAMES[self.tonic]} {self.mode}"

    def pitch(self, degree: int, lowest: int) -> int:
        """Return the MIDI pitch of a scale degree, where degree 0 is the first tonic at or above `lowest`; degrees
        below 0 and above 6 continue into the octaves around."""
        octave, step = divmod(degree, 7)
        root = lowest + (self.tonic - lowest) % 12
        return root + 12 * octave + SCALES[self.mode][step]

    def triad(self, degree: int, lowest: int) -> tuple[int, int, int]:
        """Return the diatonic triad on a degree, in the inversion whose three notes all lie within the octave above
        `lowest`, so that successive chords move smoothly."""
        classes = [(self.tonic + SCALES[self.mode][(degree + third) % 7]) % 12 for third in (0, 2, 4)]
        first, second, third = sorted(lowest + (pitch_class - lowest) % 12 for pitch_class in classes)
        return first, second, third

    def chord_name(self, degree: int) -> str:
        """Name the triad on a degree, for instance 'Am', 'F' or 'Bdim' (with sharps)."""
        scale = SCALES[self.mode]
        root, third, fifth = (scale[(degree + step) % 7] for step in (0, 2, 4))
        quality = {(3, 6): "dim", (3, 7): "m", (4, 7): ""}[((third - root) % 12, (fifth - root) % 12)]
        return PITCH_NAMES[(self.tonic + root) % 12] + quality


def frequency(pitch: int) -> float:
    """Return the frequency of a MIDI pitch in Hz, A4 = 440 Hz."""
    hertz: float = 440.0 * 2.0 ** ((pitch - 69) / 12)
    return hertz


PURE = {0: Fraction(1), 3: Fraction(6, 5), 4: Fraction(5, 4), 6: Fraction(7, 5), 7: Fraction(3, 2)}
"""Frequency ratio of a purely tuned chord tone (one that does not beat) to the root, by semitones above the root."""


def pure_tuning(interval: int) -> float:
    """Return the frequency of a purely tuned chord tone relative to the same tone in equal temperament. This is how a
    choir or a string section tunes chords.

    Args:
        interval: semitones above the root.
    """
    steps = interval % 12
    return float(PURE[steps]) / 2 ** (steps / 12)


FAST = 100
"""Lowest tempo that counts as fast, beats a minute."""


@dataclass(frozen=True)
class Note:
    """One note. Onset and duration are in seconds, `pitch` is a MIDI number, `velocity` is the loudness from 0 to 1."""

    onset: float
    duration: float
    pitch: int
    velocity: float = 1.0
    tuning: float = 1.0
    """Frequency relative to that of the pitch in equal temperament."""


@dataclass(frozen=True)
class Chord:
    """One chord of the progression. Onset and duration are in seconds, `degree` is a scale degree, `pitches` are MIDI
    numbers."""

    onset: float
    duration: float
    name: str
    degree: int
    pitches: tuple[int, int, int]


@dataclass(frozen=True)
class Hit:
    """One stroke on a drum. `onset` is in seconds, `drum` one of `stages.demo.synthesis.rendering`, `velocity` from 0
    to 1."""

    onset: float
    drum: str
    velocity: float


@dataclass(frozen=True)
class Piece:
    """A score, and what a catalog would say about it. The same (seed, index) always gives the same piece."""

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
