"""Beats and bars of music whose true beats are known."""

import mir_eval
import numpy as np
import pytest
from scipy.signal import butter, sosfilt

from stages.analysis import Rhythm, find_rhythm
from stages.analysis.bars import CANDIDATES, WEIGHTS, bar_evidence
from stages.analysis.beats import TIGHTNESS, even_beats, track_beats
from stages.analysis.onsets import FRAMES_A_SECOND, onset_strength, seconds_of
from stages.analysis.pitch import pitch_classes
from stages.demo.synthesis import Piece, compose
from stages.demo.synthesis.rendering import render

RATE = 16_000
FOLK, HOUSE, WALTZ = 1, 3, 5
"""Indices of pieces: with an even beat; with everything but the kick and the clap off the beat; with three beats a
bar."""


def mix(index: int) -> np.ndarray:
    return render(compose(0, index)).sum(0).numpy()


def truth(piece: Piece) -> np.ndarray:
    return np.arange(0, piece.seconds - 0.7, 60 / piece.tempo)


@pytest.mark.parametrize("index", [FOLK, HOUSE, WALTZ])
def test_beats_and_downbeats_are_where_they_were_played(index):
    piece = compose(0, index)
    found = find_rhythm(mix(index), RATE, piece.tempo)
    assert found.beats_per_bar == piece.beats_per_bar
    assert found.bpm == pytest.approx(piece.tempo, rel=0.005)
    assert mir_eval.beat.f_measure(truth(piece), found.beats, 0.07) > 0.9
    assert mir_eval.beat.f_measure(truth(piece)[:: piece.beats_per_bar], found.downbeats, 0.07) > 0.85
    assert set(found.downbeats) <= set(found.beats)
    assert 0.2 < found.confidence <= 1


def test_most_beats_of_the_demo_are_found_even_through_noise_and_a_low_pass():
    draw, right = np.random.default_rng(0), []
    for index in range(8):
        piece, sound = compose(0, index), mix(index)
        dull = sosfilt(butter(4, 3000, fs=RATE, output="sos"), sound)
        noisy = dull + 0.1 * sound.std() * draw.standard_normal(len(sound))
        found = find_rhythm(noisy.astype(np.float32), RATE, piece.tempo)
        right.append(mir_eval.beat.f_measure(truth(piece), found.beats, 0.07))
    assert np.median(right) > 0.9


def test_music_played_later_has_its_beats_later():
    sound = mix(FOLK)
    early = find_rhythm(sound, RATE)
    late = find_rhythm(np.concatenate([np.zeros(RATE * 3 // 4, np.float32), sound]), RATE)
    assert np.abs(late.beats[: len(early.beats)] - early.beats - 0.75).max() < 0.02
    assert np.abs(late.downbeats[: len(early.downbeats)] - early.downbeats - 0.75).max() < 0.02


def test_the_sample_rate_and_the_loudness_do_not_move_beats():
    from stages.audio import resample

    sound = mix(HOUSE)
    found = find_rhythm(sound, RATE)
    for other in (
        find_rhythm(resample(sound[None], RATE, 44_100)[0], 44_100),
        find_rhythm(0.1 * sound, RATE),
    ):
        assert mir_eval.beat.f_measure(found.beats, other.beats, 0.02) > 0.95


def test_a_hint_corrects_a_tempo_found_at_half_its_value():
    index = 7
    piece, sound = compose(0, index), mix(index)
    assert piece.genre == "drum and bass"
    assert find_rhythm(sound, RATE).bpm == pytest.approx(piece.tempo / 2, rel=0.02)
    assert find_rhythm(sound, RATE, piece.tempo).bpm == pytest.approx(piece.tempo, rel=0.02)


def test_a_hint_that_does_not_fit_the_sound_is_ignored():
    piece = compose(0, HOUSE)
    assert find_rhythm(mix(HOUSE), RATE, 0.87 * piece.tempo).bpm == pytest.approx(piece.tempo, rel=0.02)


@pytest.mark.parametrize(
    "sound",
    [
        np.zeros(4 * RATE, np.float32),
        np.full(4 * RATE, 1e-5, np.float32),
        np.zeros(0, np.float32),
        np.zeros(1, np.float32),
        mix(FOLK)[:RATE],
        0.3 * np.sin(2 * np.pi * 220 * np.arange(6 * RATE) / RATE).astype(np.float32),
    ],
    ids=["silence", "below hearing", "no samples", "one sample", "a second", "a steady tone"],
)
def test_sound_without_a_rhythm_has_no_beats(sound):
    found = find_rhythm(sound, RATE)
    assert (len(found.beats), len(found.downbeats), found.beats_per_bar, found.bpm) == (0, 0, None, None)
    assert found.confidence == 0


def test_clicks_are_found_to_a_hundredth_of_a_second():
    sound = np.zeros(10 * RATE, np.float32)
    clicks = np.arange(0.5, 9.8, 0.6)
    for click in clicks:
        start = round(click * RATE)
        sound[start : start + 400] = 0.5 * np.random.default_rng(1).standard_normal(400)
    found = find_rhythm(sound, RATE)
    assert found.bpm == pytest.approx(100, rel=0.005)
    assert mir_eval.beat.f_measure(clicks, found.beats, 0.01) > 0.95


def test_music_that_slows_down_keeps_its_own_beats():
    draw, sound = np.random.default_rng(1), np.zeros(16 * RATE, np.float32)
    clicks = 0.3 + np.cumsum(np.linspace(0.5, 0.58, 26))
    for click in clicks:
        start = round(click * RATE)
        sound[start : start + 400] = 0.5 * draw.standard_normal(400)
    found = find_rhythm(sound, RATE)
    assert mir_eval.beat.f_measure(clicks, found.beats, 0.07) > 0.9


def test_nearly_even_beats_become_even_and_others_stay_as_they_are():
    draw = np.random.default_rng(0)
    even = 0.2 + 0.5 * np.arange(20)
    heard = even + draw.normal(0, 0.008, 20)
    heard[7] += 0.12
    assert np.abs(even_beats(heard) - even).max() < 0.01
    slowing = np.cumsum(np.linspace(0.4, 0.7, 20))
    assert np.array_equal(even_beats(slowing), slowing)


@pytest.mark.slow
def test_oracle_librosa_tracks_the_same_beats():
    from librosa.beat import beat_track  # compiles for half a minute where its cache is empty

    piece = compose(0, FOLK)
    strength = onset_strength(mix(FOLK), RATE).strength
    theirs = beat_track(
        onset_envelope=strength, sr=FRAMES_A_SECOND, hop_length=1, bpm=piece.tempo, tightness=TIGHTNESS, trim=False
    )[1]
    ours = track_beats(strength, 60 * FRAMES_A_SECOND / piece.tempo)
    # The two end the series by different rules.
    count = min(len(theirs), len(ours)) - 1
    assert count > 12
    assert np.abs(theirs[:count] - ours[:count]).max() <= 1


def test_every_weight_of_the_bars_has_its_evidence():
    sound = mix(FOLK)
    onsets = onset_strength(sound, RATE)
    beats = seconds_of(track_beats(onsets.strength, 60 * FRAMES_A_SECOND / compose(0, FOLK).tempo))
    evidence = bar_evidence(onsets, pitch_classes(sound, RATE), beats)
    assert evidence.shape == (len(CANDIDATES), len(WEIGHTS))
    assert np.isfinite(evidence).all()


@pytest.mark.parametrize(
    ("samples", "rate", "bpm", "reason"),
    [
        (np.zeros((2, 9), np.float32), RATE, None, "mono"),
        (np.zeros(9, np.float32), 4000, None, "8000 Hz"),
        (np.array([np.nan], np.float32), RATE, None, "finite"),
        (np.zeros(9, np.float32), RATE, 0.0, "above 0"),
    ],
)
def test_sound_that_is_not_mono_and_finite_or_a_bad_rate_or_tempo_is_refused(samples, rate, bpm, reason):
    with pytest.raises(ValueError, match=reason):
        find_rhythm(samples, rate, bpm)


def test_find_rhythm_returns_a_rhythm_with_ascending_beats():
    found = find_rhythm(mix(FOLK), RATE)
    assert isinstance(found, Rhythm)
    assert np.all(np.diff(found.beats) > 0)
