"""Chords and keys of music whose true chords and key are known."""

import mir_eval
import numpy as np
import pytest
from scipy.signal import butter, sosfilt

from model.conditioning.config import CHORD_QUALITIES, PITCH_NAMES
from stages.analysis import Chord, find_harmony, find_rhythm
from stages.analysis.chords import TEMPLATES
from stages.demo.synthesis import Piece, compose
from stages.demo.synthesis.rendering import play, render
from stages.demo.synthesis.score import Note

RATE = 16_000
HARTE = {"": "maj", "m": "min", "dim": "dim"}


def mix(index: int) -> np.ndarray:
    return render(compose(0, index)).sum(0).numpy()


def truth(piece: Piece, moments: np.ndarray) -> list[str]:
    chords = [next(chord for chord in reversed(piece.chords) if chord.onset <= moment) for moment in moments]
    roots = [PITCH_NAMES[piece.key.pitch(chord.degree, 0) % 12] for chord in chords]
    return [f"{root}:{HARTE[chord.name.removeprefix(root)]}" for root, chord in zip(roots, chords, strict=True)]


def label(chord: Chord) -> str:
    return f"{PITCH_NAMES[chord.root]}:{chord.quality}" if chord.root >= 0 else "N"


def majmin(piece: Piece, chords: tuple[Chord, ...]) -> float:
    moments = np.arange(0.05, piece.seconds - 0.6, 0.1)
    found = [label(next(chord for chord in chords if chord.end > moment)) for moment in moments]
    right = mir_eval.chord.majmin(truth(piece, moments), found)
    return float(right[right >= 0].mean())


def chord_sound(pitches: tuple[int, ...], seconds: float = 2.0) -> np.ndarray:
    notes = tuple(Note(0.0, seconds, pitch) for pitch in pitches)
    return 0.2 * play("organ", notes, round(seconds * RATE), RATE, np.random.default_rng(0))


def test_chords_and_keys_of_the_demo_are_found_even_through_noise_and_a_low_pass():
    draw, right, keys = np.random.default_rng(0), [], []
    for index in range(8):
        piece, sound = compose(0, index), mix(index)
        dull = sosfilt(butter(4, 3000, fs=RATE, output="sos"), sound)
        noisy = (dull + 0.1 * sound.std() * draw.standard_normal(len(sound))).astype(np.float32)
        for heard in (sound, noisy):
            rhythm = find_rhythm(heard, RATE, piece.tempo)
            found = find_harmony(heard, RATE, rhythm.beats, rhythm.downbeats)
            right.append(majmin(piece, found.chords))
            keys.append(found.key is not None and found.key.name == piece.key.name)
    assert np.mean(right) > 0.95
    # Some progressions fit another key too.
    assert np.mean(keys) >= 0.75


def test_chords_are_found_without_given_beats():
    piece = compose(0, 4)
    found = find_harmony(mix(4), RATE)
    assert majmin(piece, found.chords) > 0.85
    assert found.chords[0].start == 0
    assert found.chords[-1].end == pytest.approx(piece.seconds, abs=1e-3)


@pytest.mark.parametrize("quality", TEMPLATES)
@pytest.mark.parametrize("root", [0, 7])
def test_a_chord_is_named_by_its_root_and_quality(quality, root):
    pitches = (36 + root, *(60 + (root + step) % 12 for step in TEMPLATES[quality]))
    (chord,) = find_harmony(chord_sound(pitches), RATE).chords
    assert (chord.root, chord.quality, chord.bass) == (root, quality, root)
    assert 0 < chord.confidence <= 1


def test_an_inverted_chord_keeps_its_root_over_another_bass():
    (chord,) = find_harmony(chord_sound((40, 60, 64, 67)), RATE).chords
    assert (chord.root, chord.quality, chord.bass) == (0, "maj", 4)


def test_music_played_higher_has_its_chords_and_key_higher():
    pitches = ((48, 60, 64, 67), (53, 60, 65, 69), (55, 59, 62, 67), (48, 60, 64, 67))
    for up in (0, 3, 8):
        sound = np.concatenate([chord_sound(tuple(pitch + up for pitch in chord)) for chord in pitches])
        found = find_harmony(sound, RATE)
        assert [chord.root for chord in found.chords] == [up, (up + 5) % 12, (up + 7) % 12, up]
        assert found.key is not None
        assert found.key.name == f"{PITCH_NAMES[up]} major"


def test_a_recording_tuned_off_pitch_has_the_same_chords():
    time = np.arange(3 * RATE) / RATE
    for cents in (-30, 35):
        tones = [440 * 2 ** ((pitch - 69 + cents / 100) / 12) for pitch in (45, 57, 60, 64)]
        sound = sum(0.1 * np.sin(2 * np.pi * tone * time) for tone in tones)
        (chord,) = find_harmony(np.asarray(sound, np.float32), RATE).chords
        assert (chord.root, chord.quality) == (9, "min")


@pytest.mark.parametrize("sound", [np.zeros(RATE), np.zeros(0), np.zeros(1)], ids=["silence", "none", "one"])
def test_silence_has_neither_chords_nor_a_key(sound):
    found = find_harmony(sound.astype(np.float32), RATE)
    assert (found.chords, found.key) == ((), None)


def test_a_silent_end_has_no_chord():
    sound = np.concatenate([chord_sound((48, 60, 64, 67)), np.zeros(3 * RATE, np.float32)])
    chords = find_harmony(sound, RATE).chords
    assert [label(chord) for chord in chords] == ["C:maj", "N"]
    assert (chords[-1].root, chords[-1].bass, chords[-1].confidence) == (-1, -1, 0.0)


def test_chord_qualities_are_among_those_of_the_model():
    assert set(TEMPLATES) <= set(CHORD_QUALITIES)
