"""The demo corpus: reproducible and musical, and its sound agrees with its scores and metadata."""

import csv
from collections import Counter
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import torch

from model.chroma import chroma
from model.conditioning.config import PITCH_NAMES, ChromaConfig
from stages.demo.synthesis import caption, compose
from stages.demo.synthesis.composition import ARTISTS, GENRES
from stages.demo.synthesis.rendering import INSTRUMENTS, STEMS, play, play_drums, render
from stages.demo.synthesis.score import SCALES, Hit, Key, Note, frequency

PIECES = [compose(0, index) for index in range(96)]


@pytest.fixture(scope="module")
def rendered():
    return [(piece, render(piece)) for piece in PIECES[:16]]


def test_a_piece_is_determined_by_its_seed_and_index():
    assert compose(3, 17) == compose(3, 17)
    assert torch.equal(render(compose(3, 17)), render(compose(3, 17)))


def test_another_seed_or_index_gives_another_piece():
    assert len({(p.melody, p.chords) for p in [*PIECES, *(compose(1, index) for index in range(96))]}) == 192


def test_every_title_named_by_the_demo_requests_is_exactly_one_piece():
    text = files("stages.requests").joinpath("demo_requests.csv").read_text(encoding="utf-8")
    named = {cell for row in csv.reader(text.splitlines()) for cell in row if cell.startswith("title:")}
    corpus = Counter(f"title:{piece.artist}/{piece.title}" for piece in (compose(0, index) for index in range(2400)))
    assert named
    assert {title: corpus[title] for title in named} == dict.fromkeys(named, 1)


def test_every_artist_has_six_pieces_and_any_four_held_out_leave_every_genre_on_both_sides():
    assert len(ARTISTS) == 16
    assert set(Counter(piece.artist for piece in PIECES).values()) == {6}
    works = [compose(0, index) for index in range(16 * 24)]
    for first in range(16):
        held_out = {ARTISTS[(first + step * 5) % 16] for step in range(4)}
        learned = Counter(piece.genre for piece in works if piece.artist not in held_out)
        assert {piece.genre for piece in works if piece.artist in held_out} == set(GENRES)
        assert min(learned.get(genre, 0) for genre in GENRES) > 0.05 * sum(learned.values())


def test_pieces_last_8_to_12_seconds_in_the_tempo_range_of_their_genre():
    for piece in PIECES:
        assert 8 <= round(piece.seconds) <= 12
        low, high = GENRES[piece.genre].tempo
        assert low <= piece.tempo <= high


def test_melody_chords_and_bass_stay_in_the_key_and_within_the_piece():
    for piece in PIECES:
        scale = {(piece.key.tonic + step) % 12 for step in SCALES[piece.key.mode]}
        notes = piece.melody + piece.accompaniment_notes + piece.bass_notes
        assert {note.pitch % 12 for note in notes} <= scale
        assert all(
            note.onset >= 0 and note.duration > 0 and note.onset + note.duration <= piece.seconds for note in notes
        )


def test_melody_notes_follow_one_another_without_overlap():
    for piece in PIECES:
        ends = [note.onset + note.duration for note in piece.melody]
        assert all(end <= note.onset + 1e-6 for end, note in zip(ends, piece.melody[1:], strict=False))


def test_chords_are_named_after_their_notes():
    assert Key(0, "major").chord_name(4) == "G"
    assert Key(9, "minor").chord_name(5) == "F"
    assert Key(0, "major").chord_name(6) == "Bdim"
    for piece in PIECES:
        for chord in piece.chords:
            root = PITCH_NAMES.index(chord.name.removesuffix("dim").removesuffix("m"))
            assert root in {pitch % 12 for pitch in chord.pitches}


def test_stems_are_finite_of_the_stated_level_and_sum_to_a_mix_that_does_not_clip(rendered):
    for piece, stems in rendered:
        assert stems.shape == (4, round(piece.seconds * 16_000))
        mix = stems.sum(0)
        assert torch.isfinite(mix).all()
        assert mix.abs().max() <= 0.9 + 1e-5
        assert 0.08 < mix.square().mean().sqrt() <= 0.14 + 1e-5
        assert (stems[STEMS.index("drums")].abs().max() > 0) == bool(piece.hits)


def test_the_melody_stem_has_the_pitches_of_the_score(rendered):
    heard = asked = 0
    for piece, stems in rendered:
        found = chroma(stems[STEMS.index("vocals")][None], ChromaConfig(sample_rate=16_000, window=4096, hop=1024))[
            0
        ].argmax(-1)
        for note in piece.melody:
            if note.duration > 0.25:
                asked += 1
                heard += int(found[round((note.onset + note.duration / 2) * 16_000 / 1024)] == note.pitch % 12)
    assert asked > 100
    assert heard / asked > 0.95


def test_a_drum_sounds_at_its_time_in_the_score_and_not_before():
    part = play_drums((Hit(0.5, "kick", 1.0),), 16_000, 16_000, np.random.default_rng(0))
    assert np.abs(part[:8000]).max() == 0
    assert np.abs(part[8000:9000]).max() > 0.3


@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_every_instrument_is_in_tune_and_silent_outside_its_notes(instrument):
    pitch = 43 if "bass" in instrument else 69
    part = play(instrument, (Note(0.25, 1.0, pitch),), 32_000, 16_000, np.random.default_rng(0))
    assert np.abs(part[:4000]).max() == 0
    assert np.abs(part[-4000:]).max() == 0
    spectrum = np.abs(np.fft.rfft(part[4000:20_000] * np.hanning(16_000)))
    hertz = 440 * 2 ** ((pitch - 69) / 12)
    around = spectrum[round(hertz * 0.8) : round(hertz * 1.25)]
    assert abs(round(hertz * 0.8) + int(around.argmax()) - hertz) < hertz * 0.02


def test_the_chords_are_as_loud_as_the_melody_with_every_instrument(rendered):
    for _, stems in rendered:
        bass, chords, melody = stems[1:].square().mean(1).sqrt()
        assert 1.0 <= chords / melody < 1.5
        assert 0.9 < bass / melody < 1.1


def test_a_chord_is_tuned_to_repeat_itself_without_beating():
    rate, generator = 16_000, np.random.default_rng(0)
    piece = next(piece for piece in PIECES if piece.accompaniment == "organ" and not GENRES[piece.genre].arpeggio)
    onset = piece.accompaniment_notes[0].onset
    chord = [note for note in piece.accompaniment_notes if note.onset == onset]
    root = next(note for note in chord if note.tuning == 1.0)

    def repeats(notes: list[Note]) -> float:
        held = tuple(replace(note, onset=0.0, duration=1.2) for note in notes)
        part = play("organ", held, 2 * rate, rate, generator)[rate // 10 : rate]
        # The least common period of 1, 6/5 or 5/4, and 3/2 of the root's frequency, and of those an octave lower.
        period = round(rate * 40 / frequency(root.pitch))
        return float(np.corrcoef(part[:-period], part[period:])[0, 1])

    assert len(chord) == 3
    assert repeats(chord) > 0.97
    assert repeats([replace(note, tuning=1.0) for note in chord]) < 0.9


def test_only_melody_notes_that_are_tones_of_the_chord_are_tuned_with_it():
    tuned = 0
    for piece in PIECES:
        for note in piece.melody:
            chord = next(chord for chord in reversed(piece.chords) if chord.onset <= note.onset + 1e-6)
            steps = (note.pitch - piece.key.pitch(chord.degree, 0)) % 12
            is_third = note.pitch % 12 in {pitch % 12 for pitch in chord.pitches} and steps in (3, 4)
            if is_third:
                assert note.tuning * 2 ** (steps / 12) == pytest.approx({3: 1.2, 4: 1.25}[steps])
                tuned += 1
            elif steps in (1, 2, 5, 8, 9, 10, 11):
                assert note.tuning == 1.0
    assert tuned > 300


def test_a_repeated_note_continues_the_phase_of_the_first():
    rate, generator = 16_000, np.random.default_rng(0)
    again = play("organ", (Note(0.0, 0.2, 60), Note(0.3, 0.5, 60)), rate, rate, generator)
    held = play("organ", (Note(0.0, 0.8, 60),), rate, rate, generator)
    assert np.abs(held[6000:12_000] - again[6000:12_000]).max() < 1e-3 * np.abs(held).max()


def test_captions_are_true_and_varied():
    for piece in PIECES:
        sentences = [caption(piece, variant) for variant in range(8)]
        assert len(set(sentences)) == 8
        for sentence in sentences:
            assert piece.genre in sentence.lower()
            assert piece.lead in sentence.lower()
            assert any(mood in sentence.lower() for mood in piece.moods)
            assert " a a" not in sentence.lower().replace(" a and", "")
    assert len({caption(piece) for piece in PIECES}) == 96


def test_bad_arguments_are_refused_with_the_reason():
    with pytest.raises(ValueError, match="got seed -1"):
        compose(-1, 0)
    with pytest.raises(ValueError, match="at least 8000"):
        render(PIECES[0], 4000)
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match="got 'kazoo'"):
        play("kazoo", (), 10, 16_000, generator)
    with pytest.raises(ValueError, match="got gong"):
        play_drums((Hit(0.0, "gong", 1.0),), 10, 16_000, generator)
