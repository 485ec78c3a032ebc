"""Composing a piece: a genre, a key, a progression, a melody with a motif that returns, a bass line and a drum pattern.

Genres can be heard: a genre decides tempo, metre, drum pattern, how chords and bass are played, and which instruments
may play, so that a model that hears the audio can name it. Everything is drawn from one `random.Random`, seeded by
(seed, index). So a piece and its stems can be made again at any time, and need not be stored."""

import random
from dataclasses import dataclass

from stages.demo.synthesis.score import FAST, PROGRESSIONS, Chord, Hit, Key, Note, Piece, pure_tuning


@dataclass(frozen=True)
class Genre:
    """How pieces of one genre are made."""

    tempo: tuple[int, int]
    """Lowest and highest tempo, beats a minute."""
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
    """For each drum one bar in sixteenth notes: 'x' is loud, 'o' soft, '.' silent. Empty without drums."""
    beats_per_bar: int = 4
    drum_level: float = 0.7
    """Loudness of the drums relative to the melody."""


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
"""Genres by name."""

ARTISTS = (
    "Glass Harbour", "The Paper Comets", "Mira Lindqvist", "Otter & Vale", "Kilo Sunday", "North Arcade",
    "Juniper Static", "Ada Fenwick", "Velvet Tramline", "Soft Machinery Club", "Tomas Okoye",
    "Red Lantern Trio", "Low Tide Choir", "Pilot Moth", "Saffron Ellis", "Blue Kiln",
)  # fmt: skip
"""Invented artists. Each plays every genre, and one of them more often than the others. So a split by artist leaves
every genre on both sides, and enough of it to learn from."""


def genre_of(artist_index: int, work: int) -> str:
    """Return the genre of an artist's n-th work. Every third work is in the artist's own genre; the others go round all
    genres."""
    names = list(GENRES)
    return names[(artist_index + (work if work % 3 else 0)) % len(names)]


LONGEST_BODY, TAIL = 11.0, 0.6
"""Seconds: a piece has as many whole bars as fit into the first, and then the second to ring out."""

MELODY_LOWEST, CHORD_LOWEST, BASS_LOWEST = 67, 55, 36
"""Lowest MIDI pitches of the parts: the melody above G4, chords from G3, bass from C2. This way 20 ms, a frame of the
demo's codec, hold several periods of each tone of a chord."""

MOODS = {
    ("major", True): ("happy", "uplifting", "energetic", "playful"),
    ("major", False): ("calm", "warm", "peaceful", "hopeful"),
    ("minor", True): ("tense", "driving", "urgent", "dark"),
    ("minor", False): ("sad", "melancholic", "mysterious", "dreamy"),
}
"""The moods that a listener would name, by (mode, whether it is fast)."""

TITLE_WORDS = (
    ("Silver", "Quiet", "Northern", "Paper", "Hollow", "Golden", "Distant",
     "Salt", "Amber", "Winter", "Open", "Second"),
    ("Window", "River", "Signal", "Garden", "Station", "Letter", "Harbour",
     "Mirror", "Orchard", "Engine", "Lantern", "Tide"),
)  # fmt: skip

WORKS = 40
"""Works of an artist after which titles get a number: 2 for the second 40 works, and so on. So a title that the demo's
requests name belongs to one piece, however large a corpus is."""


def compose(seed: int, index: int) -> Piece:
    """Compose the `index`-th piece of the corpus of a seed.

    Args:
        seed: which corpus.
        index: from 0; consecutive indices go through the artists in turn.

    Raises:
        ValueError: negative seed or index.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"expected seed and index of at least 0, got seed {seed} and index {index}")
    draw = random.Random(f"segue demo piece {seed}/{index}")
    artist_index, work = index % len(ARTISTS), index // len(ARTISTS)
    genre_name = genre_of(artist_index, work)
    genre = GENRES[genre_name]
    key = Key(draw.randrange(12), draw.choice(("major", "minor")))
    tempo = draw.randint(*genre.tempo)
    beat = 60.0 / tempo
    bar = genre.beats_per_bar * beat
    bars = int(LONGEST_BODY / bar)
    chords = _progression(draw, key, bars, bar)
    lead = draw.choice(genre.leads)
    title = " ".join(draw.choice(words) for words in TITLE_WORDS)
    return Piece(
        seed=seed,
        index=index,
        title=title if work < WORKS else f"{title} {work // WORKS + 1}",
        artist=ARTISTS[artist_index],
        genre=genre_name,
        moods=tuple(draw.sample(MOODS[key.mode, tempo >= FAST], 2)),
        key=key,
        tempo=float(tempo),
        beats_per_bar=genre.beats_per_bar,
        seconds=bars * bar + TAIL,
        lead=lead,
        accompaniment=draw.choice([instrument for instrument in genre.accompaniments if instrument != lead]),
        bass=genre.bass,
        chords=chords,
        melody=_melody(draw, key, genre, chords, bars, beat),
        accompaniment_notes=_accompaniment(key, genre, chords, bars, beat),
        bass_notes=_bass(key, genre, chords, bars, beat),
        hits=_hits(draw, genre, bars, beat),
    )


def _progression(draw: random.Random, key: Key, bars: int, bar: float) -> tuple[Chord, ...]:
    """Return one chord for each bar, or two if bars are so long that the harmony would stand still."""
    per_bar = 2 if bars < 4 else 1
    degrees = draw.choice(PROGRESSIONS[key.mode])
    span = bar / per_bar
    return tuple(
        Chord(i * span, span, key.chord_name(degree), degree, key.triad(degree, CHORD_LOWEST))
        for i, degree in enumerate(degrees[i % 4] for i in range(bars * per_bar))
    )


def _chord_at(chords: tuple[Chord, ...], onset: float) -> Chord:
    return next(chord for chord in reversed(chords) if chord.onset <= onset + 1e-6)


def _tuning(key: Key, chord: Chord, pitch: int) -> float:
    """Return the tuning of a pitch over a chord: the chord's tones are pure, other pitches stay in equal
    temperament."""
    is_tone = pitch % 12 in {tone % 12 for tone in chord.pitches}
    return pure_tuning(pitch - key.pitch(chord.degree, 0)) if is_tone else 1.0


def _melody(
    draw: random.Random, key: Key, genre: Genre, chords: tuple[Chord, ...], bars: int, beat: float
) -> tuple[Note, ...]:
    """Return a melody that alternates between two bars of rhythm and contour. On a beat it takes the nearest chord
    tone, between beats a neighbouring degree. It stays within an octave and a half."""
    steps = genre.beats_per_bar * 2
    motifs = [_motif(draw, steps, genre.melody_density) for _ in range(2)]
    onsets = [(b * steps + step, move) for b in range(bars) for step, move in motifs[b % 2]]
    notes, degree = [], draw.randrange(0, 6)
    for index, (onset, move) in enumerate(onsets):
        degree = min(max(degree + move, -2), 9)
        if onset % 2 == 0:
            tones = {(_chord_at(chords, onset * beat / 2).degree + third) % 7 for third in (0, 2, 4)}
            degree = min((d for d in range(-2, 10) if d % 7 in tones), key=lambda d: (abs(d - degree), d))
        following = onsets[index + 1][0] if index + 1 < len(onsets) else bars * steps
        length = min(following - onset, 4) * beat / 2
        start, pitch = onset * beat / 2, key.pitch(degree, MELODY_LOWEST)
        velocity = draw.uniform(0.8, 1.0)
        notes.append(Note(start, length, pitch, velocity, _tuning(key, _chord_at(chords, start), pitch)))
    return tuple(notes)


def _motif(draw: random.Random, steps: int, density: float) -> list[tuple[int, int]]:
    """Return a bar as (eighth note, move in scale degrees) of each note. There is always a note on the first beat."""
    starts = [0] + [step for step in range(1, steps) if draw.random() < density * (1.3 if step % 2 == 0 else 0.7)]
    return [(step, draw.choice((-2, -1, -1, 1, 1, 2))) for step in starts]


def _accompaniment(key: Key, genre: Genre, chords: tuple[Chord, ...], bars: int, beat: float) -> tuple[Note, ...]:
    notes, bar = [], genre.beats_per_bar * beat
    for b in range(bars):
        for index, offset in enumerate(genre.comping):
            onset = b * bar + offset * beat
            chord = _chord_at(chords, onset)
            # A long chord is struck again where the harmony changes under it.
            for start in [onset] + [
                c.onset for c in chords if onset + 1e-6 < c.onset < onset + genre.comping_beats * beat - 1e-6
            ]:
                chord = _chord_at(chords, start)
                length = min(genre.comping_beats * beat, chord.onset + chord.duration - start)
                pitches = (chord.pitches[(0, 2, 1, 2)[index % 4]],) if genre.arpeggio else chord.pitches
                notes += [Note(start, length, pitch, tuning=_tuning(key, chord, pitch)) for pitch in pitches]
    return tuple(notes)


def _bass(key: Key, genre: Genre, chords: tuple[Chord, ...], bars: int, beat: float) -> tuple[Note, ...]:
    notes, bar = [], genre.beats_per_bar * beat
    for b in range(bars):
        for offset in genre.bass_beats:
            onset = b * bar + offset * beat
            for start in [onset] + [
                c.onset for c in chords if onset + 1e-6 < c.onset < onset + genre.bass_length * beat - 1e-6
            ]:
                chord = _chord_at(chords, start)
                root = key.pitch(chord.degree, 0) % 12
                length = min(genre.bass_length * beat, chord.onset + chord.duration - start)
                notes.append(Note(start, length, BASS_LOWEST + (root - BASS_LOWEST) % 12))
    return tuple(notes)


def _hits(draw: random.Random, genre: Genre, bars: int, beat: float) -> tuple[Hit, ...]:
    hits = []
    for b in range(bars):
        for drum, line in genre.drums.items():
            for step, stroke in enumerate(line):
                if stroke != ".":
                    onset = (b * genre.beats_per_bar + step / 4) * beat
                    hits.append(Hit(onset, drum, draw.uniform(0.9, 1.0) * (1.0 if stroke == "x" else 0.5)))
    return tuple(hits)
