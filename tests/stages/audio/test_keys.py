"""Keys: the many ways in which people and programs write them become one spelling."""

import pytest

from model.conditioning.config import PITCH_NAMES
from stages.audio.keys import parse_key

WRITTEN = {
    "A major": ("AM", "A M"),
    "A minor": ("Am", "a minor", "A min", "Amin", "A-minor", "8A", "08a", "1m", "a moll", "la mineur", "Am (8A)"),
    "C major": ("C", "c", "C maj", "CM", "C Major", "8B", "1d", "C-Dur", "Do majeur", "8B / C"),
    "F# minor": ("F#m", "F♯ minor", "f sharp minor", "Gbm", "G♭ minor", "f#m", "fis-Moll", "11A", "4m", "Fa # minore"),
    "A# major": ("B flat", "Bb", "B♭ maj", "B-flat major", "b-dur", "bb MAJOR", "6B", "11d", "Si bémol majeur"),
    "D# major": ("Eb", "Es-Dur", "E flat major", "5B"),
    "B minor": ("Bm", "h moll", "10A"),
    "B major": ("Cb", "H-Dur"),
    "G# major": ("As-Dur", "Ab"),
    "F minor": ("4A - Fm - 128",),
}


@pytest.mark.parametrize(("key", "text"), [(key, text) for key, texts in WRITTEN.items() for text in texts])
def test_every_way_of_writing_a_key_becomes_one_spelling(key, text):
    assert parse_key(text) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "o",
        "ambient",
        "H major",
        "C major or so",
        "all over",
        "13A",
        "0A",
        "10",
        "A minor / C major",
        "H",
        "Day",
        "Am I",
        "x" * 100_000,
    ],
)
def test_text_that_is_not_a_key_gives_none(text):
    assert parse_key(text) is None


def test_both_wheels_name_every_key_once():
    every = {f"{name} {mode}" for name in PITCH_NAMES for mode in ("major", "minor")}
    for letters in ("AB", "md"):
        assert {parse_key(f"{number}{letter}") for number in range(1, 13) for letter in letters} == every


@pytest.mark.parametrize("name", PITCH_NAMES)
@pytest.mark.parametrize("mode", ["major", "minor"])
def test_the_canonical_spelling_of_a_key_is_parsed(name, mode):
    assert parse_key(f"{name} {mode}") == f"{name} {mode}"
