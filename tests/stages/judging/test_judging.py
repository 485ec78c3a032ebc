"""Judging: agreement is counted as in the literature, and a missing answer is wrong."""

import mir_eval
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.conditioning.config import PITCH_NAMES
from stages.judging.judging import Asked, Detected, beat_f_measure, chord_sounds, judge, key_score, tempo_is_near

KEYS = [f"{tonic} {mode}" for tonic in PITCH_NAMES for mode in ("major", "minor")]
NOTHING = Detected(None, None, (), (), drums=False)


def chord(start: float, end: float, root: int, quality: str = "maj") -> dict:
    return {"start": start, "end": end, "root": root, "quality": quality}


@pytest.mark.parametrize("asked", ["C major", "F# minor"])
def test_a_key_has_the_score_of_mirex(asked: str) -> None:
    for heard in KEYS:
        assert key_score(asked, heard) == mir_eval.key.weighted_score(asked, heard), heard


BEATS = st.lists(st.floats(0, 20), max_size=30, unique=True).map(sorted)


@given(BEATS, BEATS)
def test_the_f_measure_of_beats_equals_mir_evals(asked: list[float], heard: list[float]) -> None:
    expected = mir_eval.beat.f_measure(np.array(asked), np.array(heard)) if asked and heard else float(asked == heard)
    assert beat_f_measure(asked, heard) == pytest.approx(expected)


def test_beats_at_half_the_tempo_are_partly_right_and_beats_off_the_beat_wrong() -> None:
    beats = [0.5 * number for number in range(20)]
    assert beat_f_measure(beats, beats) == 1.0
    assert beat_f_measure(beats, beats[::2]) == pytest.approx(2 / 3)
    assert beat_f_measure(beats, [beat + 0.25 for beat in beats]) == 0.0
    assert beat_f_measure(beats, [beat + 0.05 for beat in beats]) == 1.0


@pytest.mark.parametrize(
    ("heard", "exact", "octave"), [(103.9, True, True), (105.0, False, False), (50.0, False, True)]
)
def test_a_tempo_is_right_within_4_percent_and_octaves_have_their_own_measure(
    heard: float, exact: bool, octave: bool
) -> None:
    scores = judge(Asked(bpm=100.0), Detected(None, heard, (), (), drums=False))
    assert (scores["bpm_correct"], scores["bpm_correct_octave"]) == (exact, octave)
    assert tempo_is_near(100.0, heard) == exact


def test_asked_music_that_is_not_heard_is_wrong() -> None:
    asked = Asked("A minor", 96.0, (0.0, 0.625), (chord(0, 2.5, 9, "min"),), drums=True)
    scores = judge(asked, NOTHING)
    assert not any(scores[name] for name in ("key_correct", "bpm_correct", "bpm_correct_octave", "drums_correct"))
    assert scores["key_score"] == scores["beat_f_measure"] == scores["chord_accuracy"] == 0.0


def test_music_that_was_not_asked_is_measured_but_not_judged() -> None:
    scores = judge(Asked(), Detected("C major", 120.0, (0.5,), (chord(0, 1, 0),), drums=True))
    assert (scores["key"], scores["bpm"], scores["beats"], scores["drums"]) == ("C major", 120.0, [0.5], True)
    assert set(scores) == {"key", "bpm", "beats", "chords", "drums", "instruments"}


def test_a_chord_is_right_if_it_sounds_for_most_of_its_bar() -> None:
    heard = [chord(0, 0.9, 0), chord(0.9, 2.2, 9, "min7"), chord(2.2, 4, 5, "maj7")]
    assert chord_sounds(chord(1, 2, 9, "min"), heard)
    assert not chord_sounds(chord(1, 2, 9, "maj"), heard)
    assert not chord_sounds(chord(0, 1, 9, "min"), heard)
    assert chord_sounds(chord(2, 4, 5, "7"), heard)
    assert chord_sounds(chord(2, 4, 5, "sus4"), heard)
    assert not chord_sounds(chord(4, 6, 5), heard)
    assert chord_sounds(chord(0, 1, -1, "N"), [])
    assert not chord_sounds(chord(0, 1, -1, "N"), heard)


def test_the_accuracy_of_chords_is_the_share_of_right_ones_among_the_asked() -> None:
    asked = tuple(chord(bar, bar + 1, root) for bar, root in enumerate((0, 5, 7, 0)))
    heard = Detected(None, None, (), (chord(0, 2.4, 0), chord(2.4, 4, 7)), drums=False)
    assert judge(Asked(chords=asked), heard)["chord_accuracy"] == 0.5


def test_instrument_recall_is_the_share_of_asked_instruments_that_are_heard() -> None:
    heard = Detected(None, None, (), (), drums=False, instruments=("organ", "flute", "violin"))
    scores = judge(Asked(instruments=("flute", "guitar")), heard)
    assert (scores["instruments"], scores["instruments_asked"]) == (["organ", "flute", "violin"], ["flute", "guitar"])
    assert scores["instrument_recall"] == 0.5
    assert "instrument_recall" not in judge(Asked(instruments=("flute",)), NOTHING)
    assert "instrument_recall" not in judge(Asked(instruments=()), heard)
