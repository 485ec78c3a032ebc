"""Beats and chords over a spectrogram: their positions in time, and chords in musicians' notation."""

import pytest

from model.conditioning.config import CHORD_QUALITIES
from stages.report.annotations import annotations, chord_name
from tests.worlds.small_catalog import chord


def test_beats_are_drawn_at_their_share_of_the_length_of_the_clip() -> None:
    drawn = annotations({"beats_asked": [0.0, 2.0], "beats": [1.0, 3.9, 9.0]}, 4.0)
    assert drawn is not None
    assert drawn.beats_asked == "M0.0 0V22M160.0 0V22"
    assert drawn.beats == "M80.0 78V100M312.0 78V100"
    assert drawn.words == "2 beats asked, 3 heard"


def test_asked_and_heard_chords_have_a_lane_each() -> None:
    score = {
        "chords_asked": [chord(0, 2, 9, "min"), chord(2, 4, 5)],
        "chords": [chord(0, 1, 9, "min7"), chord(1, 4, -1, "N")],
    }
    drawn = annotations(score, 4.0)
    assert drawn is not None
    assert [lane.name for lane in drawn.lanes] == ["asked", "heard"]
    assert [(box.x, box.width, box.text) for box in drawn.lanes[0].boxes] == [(0.0, 160.0, "Am"), (160.0, 160.0, "F")]
    assert [box.name for box in drawn.lanes[1].boxes] == ["Am7", "–"]
    assert "chords asked: Am F; chords heard: Am7 –" in drawn.words


def test_a_continued_chord_is_one_box_and_a_name_that_does_not_fit_is_left_out() -> None:
    drawn = annotations({"chords": [chord(0, 1, 0), chord(1, 2, 0), chord(2, 2.05, 1, "minmaj7")]}, 40.0)
    assert drawn is not None
    assert [(box.width, box.text) for box in drawn.lanes[0].boxes] == [(16.0, "C"), (0.4, "")]


@pytest.mark.parametrize(("root", "quality", "bass", "name"), [(0, "maj", 4, "C/E"), (10, "hdim7", 10, "A#m7b5")])
def test_an_inverted_chord_names_its_bass(root: int, quality: str, bass: int, name: str) -> None:
    assert chord_name(chord(0, 1, root, quality) | {"bass": bass}) == name


def test_every_quality_has_a_name_of_its_own() -> None:
    names = {chord_name(chord(0, 1, 0, quality)) for quality in CHORD_QUALITIES}
    assert len(names) == len(CHORD_QUALITIES)


def test_a_clip_in_which_nothing_was_heard_has_no_drawing() -> None:
    assert annotations({}, 4.0) is None
    assert annotations({"beats": [], "chords": None}, 4.0) is None
