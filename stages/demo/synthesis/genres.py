"""The genres of the demo corpus. A genre is audible: it decides tempo, metre, drum pattern, how chords and bass are
played and which instruments may play, so that a model which hears the audio can name it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Genre:
    """How pieces of one genre are made."""

    tempo: tuple[int, int]
    """Range of the tempo, beats a minute."""
    leads: tuple[str, ...]
    accompaniments: tuple[str, ...]
    bass: str
    comping: tuple[float, ...]
    """Onsets of the chords within a bar, in beats."""
    comping_beats: float
    """Length of a played chord, in beats."""
    arpeggio: bool
    """Whether the chord's notes are played one after another."""
    bass_beats: tuple[float, ...]
    """Onsets of the bass within a bar, in beats."""
    bass_length: float
    """Length of a bass note, in beats."""
    melody_density: float
    """Share of the eighth notes of a bar on which a melody note starts."""
    drums: dict[str, str]
    """A line of sixteenth notes a drum and bar; 'x' is loud, 'o' soft, '.' silent. Empty without drums."""
    beats_per_bar: int = 4
    drum_level: float = 0.7
    """Loudness of the drums against the melody."""


QUARTERS = (0.0, 1.0, 2.0, 3.0)

GENRES = {
    "ambient": Genre(
        (62, 76), ("bells", "flute", "violin"), ("pad", "strings"), "sub bass", (0.0,), 4.0, False, (0.0,), 3.9, 0.25,
        {}
    ),
    "folk": Genre(
        (88, 108), ("flute", "violin", "guitar"), ("guitar", "strings"), "upright bass",
        (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5), 0.9, True, (0.0, 2.0), 1.2, 0.55,
        {"shaker": "x.o.x.o.x.o.x.o."}, drum_level=0.35,
    ),
    "hip hop": Genre(
        (82, 94), ("synth", "bells", "flute"), ("electric piano", "strings"), "sub bass",
        (0.0, 2.5), 1.4, False, (0.0, 0.75, 2.5), 0.7, 0.4,
        {"kick": "x..x......x.....", "snare": "....x.......x..o", "hat": "x.x.x.xox.x.x.x."},
    ),
    "house": Genre(
        (120, 128), ("synth", "bells", "guitar"), ("organ", "electric piano"), "synth bass",
        (0.5, 1.5, 2.5, 3.5), 0.35, False, (0.5, 1.5, 2.5, 3.5), 0.4, 0.45,
        {"kick": "x...x...x...x...", "clap": "....x.......x...", "hat": "..x...x...x...x."}, drum_level=0.8,
    ),
    "rock": Genre(
        (108, 138), ("guitar", "synth", "violin"), ("distorted guitar", "organ"), "electric bass",
        (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5), 0.45, False, (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5), 0.45, 0.5,
        {"kick": "x.......x.x.....", "snare": "....x.......x...", "hat": "x.x.x.x.x.x.x.x."}, drum_level=0.9,
    ),
    "waltz": Genre(
        (132, 168), ("violin", "flute", "bells"), ("organ", "strings"), "upright bass",
        (1.0, 2.0), 0.6, False, (0.0,), 0.9, 0.5, {}, beats_per_bar=3,
    ),
    "reggae": Genre(
        (70, 84), ("synth", "guitar", "flute"), ("organ", "guitar"), "electric bass",
        (0.5, 1.5, 2.5, 3.5), 0.25, False, (0.0, 0.75, 2.0, 2.75), 0.5, 0.4,
        {"kick": "........x.......", "snare": "........x.......", "hat": "x.o.x.o.x.o.x.o."}, drum_level=0.6,
    ),
    "drum and bass": Genre(
        (166, 176), ("synth", "flute", "bells"), ("pad", "electric piano"), "synth bass",
        (0.0,), 4.0, False, (0.0, 1.5, 2.5), 0.9, 0.3,
        {"kick": "x.........x.....", "snare": "....x..o.o..x..o", "hat": "x.x.x.x.x.x.x.x."}, drum_level=0.9,
    ),
}  # fmt: skip
"""Name -> how it is made."""

ARTISTS = (
    "Glass Harbour", "The Paper Comets", "Mira Lindqvist", "Otter & Vale", "Kilo Sunday", "North Arcade",
    "Juniper Static", "Ada Fenwick", "Velvet Tramline", "Soft Machinery Club", "Tomas Okoye",
    "Red Lantern Trio", "Low Tide Choir", "Pilot Moth", "Saffron Ellis", "Blue Kiln",
)  # fmt: skip
"""Invented artists. Each plays two genres, so that a split by artist leaves every genre on both sides."""


def genre_of(artist_index: int, work: int) -> str:
    """The genre of an artist's n-th work: two works of three are in the artist's own genre, the third in another."""
    names = list(GENRES)
    return names[(artist_index if work % 3 < 2 else artist_index + 3) % len(names)]
