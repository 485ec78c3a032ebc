"""Charts of chords: common spellings are parsed, mistakes are reported with their position, and a clip is filled."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from model.conditioning.charts import (
    SILENCE,
    SPELLINGS,
    Chart,
    Chord,
    TimedChord,
    chart_chords,
    describe_chart,
    parse_chart,
    parse_chord,
    parse_meter,
    steady_beats,
)
from model.conditioning.config import CHORD_QUALITIES

COMMON = parse_meter("4/4")
CHORDS = some.builds(Chord, some.integers(0, 11), some.sampled_from(CHORD_QUALITIES), some.integers(0, 11))
BARS = some.lists(some.lists(some.builds(TimedChord, CHORDS | some.just(SILENCE)), min_size=1, max_size=4), min_size=1)


@pytest.mark.parametrize(
    ("text", "root", "quality", "bass"),
    [
        *(("C", 0, "maj", 0), ("Cm", 0, "min", 0), ("Cmin", 0, "min", 0), ("C-", 0, "min", 0)),
        *(("CM7", 0, "maj7", 0), ("Cmaj7", 0, "maj7", 0), ("CΔ", 0, "maj7", 0), ("C7", 0, "7", 0)),
        *(("Cm7", 0, "min7", 0), ("Cdim", 0, "dim", 0), ("C°", 0, "dim", 0), ("C°7", 0, "dim7", 0)),
        *(("Cø", 0, "hdim7", 0), ("Cm7b5", 0, "hdim7", 0), ("Cm7♭5", 0, "hdim7", 0), ("Caug", 0, "aug", 0)),
        *(("C+", 0, "aug", 0), ("Csus2", 0, "sus2", 0), ("Csus4", 0, "sus4", 0), ("Csus", 0, "sus4", 0)),
        *(("C6", 0, "maj6", 0), ("Cm6", 0, "min6", 0), ("CmM7", 0, "minmaj7", 0), ("C(", None, "", 0)),
        *(("Bb/D", 10, "maj", 2), ("B♭m7/A♭", 10, "min7", 8), ("F#", 6, "maj", 6), ("F♯m7b5/E", 6, "hdim7", 4)),
        *(("Cb", 11, "maj", 11), ("Fbb", 3, "maj", 3), ("G##7", 9, "7", 9), ("N.C.", -1, "N", -1)),
        *(("H7", None, "", 0), ("c", None, "", 0), ("C/H", None, "", 0), ("Cfoo", None, "", 0), ("", None, "", 0)),
    ],
)
def test_a_chord_is_parsed_from_its_common_spellings(text: str, root: int | None, quality: str, bass: int) -> None:
    assert parse_chord(text) == (None if root is None else Chord(root, quality, bass))


def test_no_spelling_belongs_to_two_qualities() -> None:
    assert tuple(SPELLINGS) == CHORD_QUALITIES
    every = [spelling for spellings in SPELLINGS.values() for spelling in spellings]
    assert len(set(every)) == len(every)


@given(bars=BARS)
def test_a_written_chart_is_parsed_back_unchanged(bars: list[list[TimedChord]]) -> None:
    chart = Chart(tuple(map(tuple, bars)))
    assert parse_chart(str(chart), COMMON) == chart


@pytest.mark.parametrize(
    ("text", "beats"),
    [("4/4", 4), ("3/4", 3), (" 2 / 2 ", 2), ("6/8", 2), ("9/8", 3), ("12/8", 4), ("3/8", 3), ("7/8", 7), ("5/4", 5)],
)
def test_a_metre_has_as_many_beats_as_musicians_count(text: str, beats: int) -> None:
    assert parse_meter(text).beats == beats
    assert str(parse_meter(text)) == text.replace(" ", "")


@pytest.mark.parametrize("text", ["", "4", "0/4", "4/5", "4/4/4", "waltz", "17/4"])
def test_an_invalid_metre_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a metre such as '4/4'"):
        parse_meter(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("C | G | H7", "expected a chord at position 9, got 'H7'"),
        ("C || F", r"expected a chord at position 4, got '\|'"),
        ("", "expected a chord at position 1, got the end"),
        ("%", "expected a chord at position 1, got '%'"),
        ("C | F:5", "expected 4 beats in the bar of 4/4 at position 5, got 5"),
        ("C:2 F:1 | G", "expected 4 beats in the bar of 4/4 at position 1, got 3"),
        ("C:4 F", "expected chord lengths below 4 beats in total in the bar of 4/4 at position 1, got 4"),
        ("C:two G", "expected a number of beats at position 3, got 'two'"),
        ("C:0 G", "expected a number of beats at position 3, got '0'"),
    ],
)
def test_a_mistake_in_a_chart_is_reported_with_its_position(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_chart(text, COMMON)


def test_chords_share_their_bar_equally_or_as_given_and_the_chart_repeats() -> None:
    def lasting(text: str, seconds: float = 8.0) -> list[tuple[float, float, int]]:
        chords = chart_chords(parse_chart(text, COMMON), COMMON, 120.0, seconds)
        return [(start, end, int(root)) for start, end, root, *_ in chords.round(6).tolist()]

    assert lasting("C | G") == [(0, 2, 0), (2, 4, 7), (4, 6, 0), (6, 8, 7)]
    assert lasting("C F | G", 4.0) == lasting("| C:2 F:2 | G |", 4.0) == [(0, 1, 0), (1, 2, 5), (2, 4, 7)]
    assert lasting("C:3 G | %", 4.0) == [(0, 1.5, 0), (1.5, 2, 7), (2, 3.5, 0), (3.5, 4, 7)]
    assert lasting("C|G|F|A", 3.0) == [(0, 2, 0), (2, 4, 7)]
    assert lasting("N.C. C", 2.0) == [(0, 1, -1), (1, 2, 0)]


@given(
    bars=BARS, bpm=some.floats(40, 240), seconds=some.floats(0.5, 60), meter=some.sampled_from(["4/4", "3/4", "6/8"])
)
def test_a_clip_has_one_chord_at_every_moment_and_repeats_the_chart_exactly(
    bars: list[list[TimedChord]], bpm: float, seconds: float, meter: str
) -> None:
    chart, beat = Chart(tuple(map(tuple, bars))), 60 / bpm
    chords = chart_chords(chart, parse_meter(meter), bpm, seconds)
    assert chords[0, 0] == 0
    assert chords[-1, 0] < seconds <= chords[-1, 1] + 1e-6
    np.testing.assert_allclose(chords[1:, 0], chords[:-1, 1])
    names, once = sum(len(bar) for bar in bars), len(bars) * parse_meter(meter).beats * beat
    again = chords[names:]
    np.testing.assert_allclose(again[:, 0], chords[: len(again), 0] + once, atol=1e-6)
    assert np.array_equal(again[:, 2:], chords[: len(again), 2:])


@given(bpm=some.floats(20, 400), seconds=some.floats(0.1, 60), meter=some.sampled_from(["4/4", "3/4", "6/8", "7/8"]))
def test_beats_start_with_the_clip_are_even_and_reach_the_downbeat_past_its_end(
    bpm: float, seconds: float, meter: str
) -> None:
    steady, count = steady_beats(parse_meter(meter), bpm, seconds), parse_meter(meter).beats
    np.testing.assert_allclose(np.diff(steady.beats), 60 / bpm)
    assert steady.beats[0] == steady.downbeats[0] == 0
    assert steady.downbeats[-1] >= seconds
    assert np.array_equal(steady.downbeats, steady.beats[::count])


def test_a_request_for_chords_is_described_in_words() -> None:
    blues = parse_chart("A7|D7|A7|A7|D7|D7|A7|A7|E7|D7|A7|E7", COMMON)
    told = "12 bars of 4/4 at 96 bpm: A7, D7, A7, A7, D7, D7, A7, A7, E7, D7, A7, E7"
    assert describe_chart(COMMON, 96.0, 30.0, blues) == told
    assert describe_chart(COMMON, 96.0, 5.0, blues) == "2 bars of 4/4 at 96 bpm: A7, D7, … (the first 2 of 12)"
    loop = parse_chart("Bb F/A", COMMON)
    assert describe_chart(COMMON, 120.0, 5.0, loop) == "2.5 bars of 4/4 at 120 bpm: A# F/A (2.5 times)"
    assert describe_chart(parse_meter("6/8"), 60.0, 2.0, None) == "1 bar of 6/8, 2 beats each, at 60 bpm"
