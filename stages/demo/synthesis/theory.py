"""Keys, scales and diatonic triads in equal temperament: as much harmony as the demo corpus needs.

Pitches are MIDI note numbers (60 is middle C, 69 is A at 440 Hz); pitch classes count semitones above C."""

from dataclasses import dataclass

PITCH_CLASSES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
"""Names of the twelve pitch classes, in the order of the chroma bins."""

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
        """For instance 'A minor'."""
        return f"{PITCH_CLASSES[self.tonic]} {self.mode}"

    def pitch(self, degree: int, lowest: int) -> int:
        """MIDI pitch of a scale degree, where degree 0 is the first tonic at or above `lowest`; degrees below 0 and
        above 6 continue into the octaves around."""
        octave, step = divmod(degree, 7)
        root = lowest + (self.tonic - lowest) % 12
        return root + 12 * octave + SCALES[self.mode][step]

    def triad(self, degree: int, lowest: int) -> tuple[int, int, int]:
        """The diatonic triad on a degree, in the inversion whose three notes all lie within the octave above
        `lowest`, so that successive chords move smoothly."""
        classes = [(self.tonic + SCALES[self.mode][(degree + third) % 7]) % 12 for third in (0, 2, 4)]
        first, second, third = sorted(lowest + (pitch_class - lowest) % 12 for pitch_class in classes)
        return first, second, third

    def chord_name(self, degree: int) -> str:
        """For instance 'Am', 'F' or 'Bdim' (with sharps)."""
        scale = SCALES[self.mode]
        root, third, fifth = (scale[(degree + step) % 7] for step in (0, 2, 4))
        quality = {(3, 6): "dim", (3, 7): "m", (4, 7): ""}[((third - root) % 12, (fifth - root) % 12)]
        return PITCH_CLASSES[(self.tonic + root) % 12] + quality


def frequency(pitch: int) -> float:
    """Frequency of a MIDI pitch in Hz, A4 = 440 Hz."""
    return 440.0 * 2.0 ** ((pitch - 69) / 12)
