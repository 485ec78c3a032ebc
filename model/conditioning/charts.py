"""Charts: metre, tempo and chords as a person writes them, and the beats and chords of a clip that follow from them.

A chart is chords between bar lines: `C | G/B | Am7 F | N.C.`. Chords of one bar share it evenly, or have a number of
beats (`C:3 G:1 | F`). `%` repeats the previous bar. A chart begins with the clip and is repeated to its end.

A bar of 3/4 has three beats. A bar of 6/8, 9/8 or 12/8 has two, three or four beats of three eighths each, as musicians
count and beat trackers detect them. A tempo counts these beats.
"""

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from model.conditioning.config import CHORD_QUALITIES, NO_CHORD, NO_ROOT, PITCH_NAMES

LETTERS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
"""Semitones of each note above C."""

SPELLINGS = {
    "maj": ("", "maj", "major", "M"),
    "min": ("m", "min", "minor", "mi", "-"),
    "dim": ("dim", "°", "o"),
    "aug": ("aug", "+"),
    "7": ("7", "dom7"),
    "maj7": ("maj7", "M7", "ma7", "j7", "Δ", "Δ7"),
    "min7": ("m7", "min7", "mi7", "-7"),
    "hdim7": ("m7b5", "min7b5", "-7b5", "ø", "ø7", "hdim7", "hdim"),
    "dim7": ("dim7", "°7", "o7"),
    "minmaj7": ("mM7", "m(maj7)", "mmaj7", "minmaj7", "min(maj7)", "-M7", "-maj7", "mΔ", "-Δ"),
    "sus2": ("sus2",),
    "sus4": ("sus4", "sus"),
    "maj6": ("6", "maj6", "M6"),
    "min6": ("m6", "min6", "-6"),
}
"""Spellings of each quality after a root; the first is the one that this project writes."""

NO_CHORD_SPELLINGS = ("N.C.", "NC", "N.C", "N")

_QUALITY_OF = {spelling: quality for quality, spellings in SPELLINGS.items() for spelling in spellings}
_CHORD = re.compile(r"([A-G])(#{1,2}|b{1,2})?([^/]*)(?:/([A-G])(#{1,2}|b{1,2})?)?")
_SIGNS = str.maketrans({"♯": "#", "♭": "b", "∆": "Δ", "△": "Δ", "º": "°", "−": "-", "–": "-"})

DEFAULT_METER = "4/4"
"""The metre of a request that has a tempo but no metre."""

MOST_BEATS = 16
"""Maximum number of beats of a bar."""


@dataclass(frozen=True)
class Chord:
    """A root, a quality and a bass, as `model.conditioning.config.CHORD_INTERVALS` explains them."""

    root: int
    quality: str
    bass: int

    def __str__(self) -> str:
        if self.root == NO_ROOT:
            return NO_CHORD_SPELLINGS[0]
        name = PITCH_NAMES[self.root] + SPELLINGS[self.quality][0]
        return name if self.bass == self.root else f"{name}/{PITCH_NAMES[self.bass]}"


SILENCE = Chord(NO_ROOT, NO_CHORD, NO_ROOT)


@dataclass(frozen=True)
class Meter:
    """A metre as it is written: `count`/`unit`."""

    count: int
    unit: int

    @property
    def beats(self) -> int:
        """Number of beats of a bar."""
        compound = self.unit >= 8 and self.count % 3 == 0 and self.count > 3
        return self.count // 3 if compound else self.count

    def __str__(self) -> str:
        return f"{self.count}/{self.unit}"


@dataclass(frozen=True)
class TimedChord:
    """A chord of a bar, with its length."""

    chord: Chord
    beats: float | None = None
    """Length in beats; None is an equal share of the beats that chords with a length leave of the bar."""

    def __str__(self) -> str:
        return str(self.chord) if self.beats is None else f"{self.chord}:{self.beats:g}"


@dataclass(frozen=True)
class Chart:
    """Chords, bar by bar."""

    bars: tuple[tuple[TimedChord, ...], ...]

    def __str__(self) -> str:
        return " | ".join(" ".join(map(str, bar)) for bar in self.bars)

    @cached_property
    def names(self) -> list[str]:
        """The chord names of each bar, without lengths."""
        return [" ".join(str(timed.chord) for timed in bar) for bar in self.bars]


def parse_meter(text: str) -> Meter:
    """Parse a metre such as `4/4`.

    Raises:
        ValueError: the text is not a metre, or its bar has more than `MOST_BEATS` beats.
    """
    match = re.fullmatch(r"\s*([1-9][0-9]?)\s*/\s*(1|2|4|8|16)\s*", text)
    meter = Meter(int(match[1]), int(match[2])) if match else None
    if meter is None or meter.beats > MOST_BEATS:
        raise ValueError("expected a metre such as '4/4', '3/4' or '6/8'")
    return meter


def parse_chord(text: str) -> Chord | None:
    """Parse the name of a chord, such as `F#m7b5/E`; return None if it is not a chord."""
    plain = unicodedata.normalize("NFC", text).translate(_SIGNS)
    if plain.upper() in NO_CHORD_SPELLINGS:
        return SILENCE
    match = _CHORD.fullmatch(plain)
    quality = _QUALITY_OF.get(match[3]) if match else None
    if match is None or quality is None:
        return None
    root = _pitch(match[1], match[2])
    return Chord(root, quality, _pitch(match[4], match[5]) if match[4] else root)


def _pitch(letter: str, accidental: str | None) -> int:
    signs = accidental or ""
    return (LETTERS[letter] + signs.count("#") - signs.count("b")) % len(PITCH_NAMES)


def parse_chart(text: str, meter: Meter) -> Chart:
    """Parse chords between bar lines.

    Raises:
        ValueError: a chord or length cannot be parsed, or the lengths of a bar do not fit the metre. The message names
            the position in the text, counted from 1.
    """
    tokens = [(match.start() + 1, match[0]) for match in re.finditer(r"\||[^\s|]+", text)]
    if tokens and tokens[0][1] == "|":
        tokens = tokens[1:]
    if not tokens or tokens[-1][1] != "|":
        tokens.append((len(text) + 1, "|"))
    bars: list[tuple[TimedChord, ...]] = []
    bar: list[TimedChord] = []
    begin = tokens[0][0]
    for position, token in tokens:
        if token == "|":
            if not bar:
                got = "the end" if position > len(text) else "'|'"
                raise ValueError(f"expected a chord at position {position}, got {got}")
            _check_bar(bar, meter, begin)
            bars.append(tuple(bar))
            bar = []
            continue
        begin = begin if bar else position
        if token == "%" and not bar and bars:
            bar = [*bars[-1]]
            continue
        bar.append(_parse_timed(token, position))
    return Chart(tuple(bars))


def _parse_timed(token: str, position: int) -> TimedChord:
    name, colon, length = token.partition(":")
    chord = parse_chord(name)
    if chord is None:
        raise ValueError(f"expected a chord at position {position}, got {name!r}")
    if not colon:
        return TimedChord(chord)
    if not re.fullmatch(r"[0-9]{1,2}(\.[0-9]{1,3})?", length) or not float(length):
        length_position = position + len(name) + 1
        raise ValueError(f"expected a number of beats at position {length_position}, got {length!r}")
    return TimedChord(chord, float(length))


def _check_bar(bar: Sequence[TimedChord], meter: Meter, position: int) -> None:
    beats, is_open = sum(timed.beats or 0 for timed in bar), any(timed.beats is None for timed in bar)
    if beats > meter.beats or (is_open and beats == meter.beats) or (not is_open and beats < meter.beats - 1e-3):
        wanted = f"chord lengths below {meter.beats} beats in total" if is_open else f"{meter.beats} beats"
        raise ValueError(f"expected {wanted} in the bar of {meter} at position {position}, got {beats:g}")


def bar_seconds(meter: Meter, bpm: float) -> float:
    """Return the length of a bar in seconds."""
    return meter.beats * 60 / bpm


@dataclass(frozen=True, eq=False)
class SteadyBeats:
    """Beats and downbeats of a clip at one tempo, seconds."""

    beats: Float[npt.NDArray[np.float64], " M"]
    downbeats: Float[npt.NDArray[np.float64], " N"]


def steady_beats(meter: Meter, bpm: float, seconds: float) -> SteadyBeats:
    """Return the beats of a clip whose first bar begins at its start. The beats go on for a bar or more after the
    clip's end."""
    beats = np.arange(math.ceil(seconds * bpm / 60) + 2 * meter.beats + 1) * 60 / bpm
    return SteadyBeats(beats, beats[:: meter.beats])


def chart_chords(chart: Chart, meter: Meter, bpm: float, seconds: float) -> Float[npt.NDArray[np.float64], "C 5"]:
    """Return the chords of a clip: the chart from the clip's start, repeated to its end.

    The columns are `model.conditioning.frame_wise.CHORD_COLUMNS`.
    """
    lengths, numbers = [], []
    for bar in chart.bars:
        without_length = [timed for timed in bar if timed.beats is None]
        share = (meter.beats - sum(timed.beats or 0 for timed in bar)) / max(1, len(without_length))
        for timed in bar:
            lengths.append(share if timed.beats is None else timed.beats)
            quality = 0 if timed.chord.root == NO_ROOT else CHORD_QUALITIES.index(timed.chord.quality)
            numbers.append((timed.chord.root, quality, timed.chord.bass))
    times = math.ceil(seconds / (len(chart.bars) * bar_seconds(meter, bpm)))
    ends = np.cumsum(np.tile(lengths, times)) * 60 / bpm
    starts = np.concatenate([[0.0], ends[:-1]])
    keep = starts < seconds
    chords: Float[npt.NDArray[np.float64], "C 5"] = np.column_stack([starts, ends, np.tile(numbers, (times, 1))])[keep]
    return chords


def describe_chart(meter: Meter, bpm: float, seconds: float, chart: Chart | None, most: int = 16) -> str:
    """Describe how a tempo and chords are understood: `8 bars of 4/4 at 96 bpm: A7, D7, A7, … (the first 8 of 12)`.

    Args:
        most: maximum number of bars whose chords are listed.
    """
    bars = seconds / bar_seconds(meter, bpm)
    counted = f", {meter.beats} beats each," if meter.beats != meter.count else ""
    length = f"{round(bars, 1):g} {'bar' if bars == 1 else 'bars'} of {meter}{counted} at {bpm:g} bpm"
    if chart is None:
        return length
    names = chart.names[: min(most, math.ceil(bars))]
    chords = ", ".join(names) + (", …" if len(names) < len(chart.names) else "")
    count = len(chart.names)
    if count > math.ceil(bars - 1e-6):
        chords += f" (the first {math.ceil(bars - 1e-6)} of {count})"
    elif count < bars - 1e-6:
        chords += f" ({round(bars / count, 2):g} times)"
    return f"{length}: {chords}"
