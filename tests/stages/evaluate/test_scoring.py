"""Planted sounds: a demo piece scores well by its own truth, and changes to it show in its scores."""

from dataclasses import replace

import numpy as np
import pytest

from model.conditioning.charts import parse_chord
from stages.demo.synthesis import Piece, compose
from stages.demo.synthesis.rendering import render
from stages.evaluate.scoring import score_sound
from stages.judging.asking import beat_grid
from stages.judging.judging import Asked

RATE, SECONDS = 16_000, 8.0
PIECES = range(16, 32)


def sound(piece: Piece) -> np.ndarray:
    """The first seconds of a piece: float32 [1, N]."""
    samples: np.ndarray = render(piece).sum(0).numpy()[None, : round(SECONDS * RATE)].astype(np.float32)
    return samples


def asked(piece: Piece) -> Asked:
    chords = tuple(
        {"start": chord.onset, "end": chord.onset + chord.duration, "root": named.root, "quality": named.quality}
        for chord in piece.chords
        if chord.onset + chord.duration <= SECONDS and (named := parse_chord(chord.name))
    )
    return Asked(piece.key.name, piece.tempo, beat_grid(piece.tempo, SECONDS), chords, bool(piece.hits))


def transposed(piece: Piece, semitones: int) -> Piece:
    """The same piece with all its notes higher by some semitones."""
    voices = {
        name: tuple(replace(note, pitch=note.pitch + semitones) for note in getattr(piece, name))
        for name in ("melody", "accompaniment_notes", "bass_notes")
    }
    return replace(piece, **voices)


@pytest.fixture(scope="module")
def scores() -> list[dict]:
    return [score_sound(sound(piece), RATE, asked(piece)) for piece in map(lambda n: compose(3, n), PIECES)]


def mean(rows: list[dict], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def test_a_piece_scores_well_by_its_own_truth(scores: list[dict]) -> None:
    assert mean(scores, "beat_f_measure") > 0.7
    assert mean(scores, "bpm_correct_octave") > 0.7
    assert mean(scores, "drums_correct") > 0.8
    assert mean(scores, "key_correct") > 0.6  # chance is 1 in 24
    assert mean(scores, "chord_accuracy") > 0.85


def test_a_piece_has_a_pulse_and_tones_and_noise_has_neither(scores: list[dict]) -> None:
    hiss = 0.1 * np.random.default_rng(0).standard_normal((1, round(SECONDS * RATE))).astype(np.float32)
    noise = score_sound(hiss, RATE, Asked())
    assert mean(scores, "pulse_clarity") > 0.4 > 2 * noise["pulse_clarity"]
    assert mean(scores, "pitch_strength") > 2 * noise["pitch_strength"]


def test_a_transposed_piece_has_the_wrong_key_and_chords_but_the_right_beats(scores: list[dict]) -> None:
    rows = []
    for number in PIECES:
        piece = compose(3, number)
        rows.append(score_sound(sound(transposed(piece, 1)), RATE, asked(piece)))
    assert mean(rows, "key_correct") < 0.15 < mean(scores, "key_correct")
    assert mean(rows, "chord_accuracy") < 0.15 < mean(scores, "chord_accuracy")
    assert mean(rows, "beat_f_measure") == pytest.approx(mean(scores, "beat_f_measure"), abs=0.15)


def test_a_piece_judged_by_another_tempo_has_few_right_beats(scores: list[dict]) -> None:
    rows = []
    for number in list(PIECES)[:6]:
        piece = compose(3, number)
        other = Asked(beats=beat_grid(piece.tempo * 1.13, SECONDS))
        rows.append(score_sound(sound(piece), RATE, other))
    assert mean(rows, "beat_f_measure") < 0.5


def test_silence_is_wrong_in_everything_that_was_asked() -> None:
    piece = compose(3, 16)
    row = score_sound(np.zeros((1, round(SECONDS * RATE)), np.float32), RATE, asked(piece))
    assert not any(row[name] for name in ("key_correct", "bpm_correct", "bpm_correct_octave"))
    assert row["key_score"] == row["beat_f_measure"] == row["chord_accuracy"] == 0.0
    assert row["pulse_clarity"] is row["pitch_strength"] is row["centroid"] is None
    assert row["drums"] is False
