"""What was asked: words about drums, the grid of beats, and the score of a piece."""

import pytest

from stages.judging.asking import asked_by_request, asked_drums, beat_grid

REQUEST = {"key": None, "bpm": None, "meter": None, "chords": None, "prompt": None, "seconds": 4.0, "description": None}
REQUEST |= {"fields": None}


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ("slow jazz with drums", True),
        ("ambient pads without drums", False),
        ("A waltz, no percussion, in D minor", False),
        ("drumless loop", False),
        ("fast drum and bass with flute", None),
        ("drum & bass, drums and organ", True),
        ("a calm piano piece", None),
        ("", None),
        (None, None),
    ],
)
def test_words_ask_for_drums_for_none_or_do_not_mention_them(words: str | None, asked: bool | None) -> None:
    assert asked_drums(words) is asked


def test_beats_are_asked_from_the_start_of_a_clip_until_before_its_end() -> None:
    assert beat_grid(120.0, 2.0) == (0.0, 0.5, 1.0, 1.5)
    assert beat_grid(120.0, 2.1) == (0.0, 0.5, 1.0, 1.5, 2.0)
    assert asked_by_request(REQUEST | {"bpm": 60.0}).beats == (0.0, 1.0, 2.0, 3.0)


def test_chords_are_asked_bar_by_bar_and_repeated_until_the_clip_ends() -> None:
    chords = asked_by_request(REQUEST | {"bpm": 120.0, "chords": "C | Am7 | N.C.", "seconds": 7.5}).chords
    assert chords is not None
    assert [(chord["start"], chord["end"], chord["root"], chord["quality"]) for chord in chords] == [
        *((0.0, 2.0, 0, "maj"), (2.0, 4.0, 9, "min7"), (4.0, 6.0, -1, "N"), (6.0, 8.0, 0, "maj"))
    ]


def test_a_bar_of_a_waltz_is_three_beats_and_a_chord_cut_short_by_the_end_is_not_asked() -> None:
    request = REQUEST | {"bpm": 60.0, "meter": "3/4", "chords": "C:2 F:1 | G/B", "seconds": 4.0}
    chords = asked_by_request(request).chords
    assert chords is not None
    assert [(chord["end"], chord["bass"]) for chord in chords] == [(2.0, 0), (3.0, 5)]


def test_no_beats_are_asked_of_a_clip_that_continues_a_prompt() -> None:
    asked = asked_by_request(REQUEST | {"bpm": 60.0, "prompt": "track:ab"})
    assert (asked.bpm, asked.beats) == (60.0, None)


def test_an_asked_key_gets_the_spelling_of_tracks() -> None:
    assert asked_by_request(REQUEST | {"key": "Am"}).key == "A minor"
    assert asked_by_request(REQUEST).key is None
