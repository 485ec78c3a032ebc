"""Beat and chords at every frame: phases by formula, chords, unknown frames, and a model that reads them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as some
from pydantic import ValidationError

from model.conditioning.config import CHORD_QUALITIES, PITCH_NAMES, BeatConfig
from model.conditioning.frame_wise import FrameWiseConditioner, beat_vectors, chord_vectors, frame_times
from model.music_model import Attributes, drop_attributes
from tests.worlds.beats_and_chords import config, item, music_model
from tests.worlds.tiny_model import random_codes

BEAT = BeatConfig(waves=2)
NONE = np.zeros(0)
ROOT, QUALITY, NO_CHORD, BASS = 0, 12, 12 + len(CHORD_QUALITIES), 13 + len(CHORD_QUALITIES)
SOUND = BASS + 12


def phases(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Phases of beat and bar, 0 to 1, of vectors; NaN where a vector is zero."""
    sines, cosines = vectors[:, [0, -2]], vectors[:, [BEAT.waves, -1]]
    turned = np.where(np.hypot(sines, cosines) > 0.5, np.arctan2(sines, cosines) / (2 * np.pi) % 1, np.nan)
    return turned[:, 0], turned[:, 1]


def apart(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Distance of phases around the circle; NaN where either is NaN."""
    distance = np.abs(found - expected) % 1
    return np.minimum(distance, 1 - distance)


def test_the_time_of_a_frame_is_its_middle() -> None:
    assert frame_times(10, 3, 4.0).tolist() == [2.625, 2.875, 3.125]


def test_the_phase_rises_evenly_between_beats_and_continues_for_one_beat_beyond_them() -> None:
    beats, downbeats = np.array([1.0, 1.5, 2.5]), np.array([1.0, 2.5])
    times = np.array([0.4, 0.6, 1.0, 1.25, 2.0, 2.5, 3.4, 3.6])
    beat, bar = phases(beat_vectors(beats, downbeats, times, BEAT))
    expected_beat = [np.nan, 0.2, 0, 0.5, 0.5, 0, 0.9, np.nan]
    expected_bar = [np.nan, (0.6 + 0.5) / 1.5, 0, 0.25 / 1.5, 1 / 1.5, 0, 0.9 / 1.5, np.nan]
    np.testing.assert_allclose(apart(beat, np.array(expected_beat)), np.array(expected_beat) * 0, atol=1e-6)
    np.testing.assert_allclose(apart(bar, np.array(expected_bar)), np.array(expected_bar) * 0, atol=1e-6)


def test_waves_are_sines_and_cosines_of_the_beat_and_of_its_halves() -> None:
    vector = beat_vectors(np.arange(4.0), np.array([0.0, 2.0]), np.array([1.1]), BEAT)[0]
    angles = 2 * math.pi * np.array([0.1, 0.2])
    expected = [*np.sin(angles), *np.cos(angles), math.sin(math.pi * 1.1), math.cos(math.pi * 1.1)]
    np.testing.assert_allclose(vector, expected, atol=1e-6)
    assert len(vector) == BEAT.width


@given(
    steps=some.lists(some.floats(0.2, 2.0), min_size=3, max_size=12),
    first=some.floats(-1.0, 3.0),
    beats_a_bar=some.integers(1, 4),
    share=some.floats(0.0, 0.999),
)
def test_the_phase_is_the_elapsed_share_of_the_beat_or_bar(
    steps: list[float], first: float, beats_a_bar: int, share: float
) -> None:
    beats = first + np.cumsum([0.0, *steps])
    assume(len(beats[::beats_a_bar]) >= 2)
    times = beats[:-1] + share * np.diff(beats)
    beat, bar = phases(beat_vectors(beats, beats[::beats_a_bar], times, BEAT))
    assert apart(beat, np.full(len(times), share)).max() < 1e-5
    downbeats = beats[::beats_a_bar]
    for time, found in zip(times, bar, strict=True):
        number = int(np.searchsorted(downbeats, time, side="right")) - 1
        length = downbeats[min(number + 1, len(downbeats) - 1)] - downbeats[min(number, len(downbeats) - 2)]
        if time < downbeats[-1] + length - 1e-6:
            assert apart(found, (time - downbeats[number]) / length) < 1e-4


def test_the_bar_is_zero_without_downbeats_and_all_is_zero_without_two_beats() -> None:
    times = frame_times(0, 20, 10.0)
    vectors = beat_vectors(np.arange(4.0), NONE, times, BEAT)
    assert not vectors[:, -2:].any()
    assert vectors[:, :-2].any(axis=1).all()
    assert not beat_vectors(np.array([1.0]), np.array([1.0, 2.0]), times, BEAT).any()
    assert not beat_vectors(NONE, NONE, times, BEAT).any()


def test_beats_that_do_not_rise_are_refused() -> None:
    with pytest.raises(ValueError, match="expected beats in ascending order"):
        beat_vectors(np.array([0.0, 1.0, 1.0]), NONE, np.zeros(1), BEAT)
    with pytest.raises(ValueError, match="expected downbeats in ascending order"):
        beat_vectors(np.arange(3.0), np.array([2.0, 0.0]), np.zeros(1), BEAT)


def test_a_chord_vector_holds_root_quality_and_bass_and_no_chord_differs_from_unknown() -> None:
    minor = CHORD_QUALITIES.index("min7")
    chords = np.array([[0.0, 1.0, 9, minor, 4], [1.0, 2.0, -1, 0, -1], [3.0, 4.0, 2, 0, 2]])
    vectors = chord_vectors(chords, np.array([-0.1, 0.0, 0.99, 1.5, 2.5, 3.0, 4.0]))
    found = [np.flatnonzero(vector).tolist() for vector in vectors]
    inverted = [ROOT + 9, QUALITY + minor, BASS + 4, *(SOUND + pitch for pitch in (0, 4, 7, 9))]
    major = [ROOT + 2, QUALITY, BASS + 2, *(SOUND + pitch for pitch in (2, 6, 9))]
    assert found == [[], inverted, inverted, [NO_CHORD], [], major, []]
    assert set(vectors[vectors != 0]) == {1.0}
    assert not chord_vectors(np.zeros((0, 5)), np.zeros(3)).any()


def test_chord_vectors_hold_the_sounding_pitches_with_the_bass() -> None:
    major, minor = CHORD_QUALITIES.index("maj"), CHORD_QUALITIES.index("min7")
    chords = np.array([[0.0, 1.0, 0, major, 0], [1.0, 2.0, 9, minor, 9], [2.0, 3.0, 0, major, 2]])
    sounding = chord_vectors(chords, np.array([0.5, 1.5, 2.5]))[:, SOUND:]
    assert [[PITCH_NAMES[pitch] for pitch in np.flatnonzero(vector)] for vector in sounding] == [
        ["C", "E", "G"],
        ["C", "E", "G", "A"],
        ["C", "D", "E", "G"],
    ]


def test_items_of_a_batch_equal_items_alone_and_unknown_frames_are_zeros() -> None:
    torch.manual_seed(0)
    conditioner = FrameWiseConditioner(BEAT, 7)
    items = [torch.randn(5, BEAT.width), None, torch.randn(3, BEAT.width)]
    items[0][1] = 0.0  # an unknown frame
    together = conditioner(conditioner.prepare(items))
    assert together.mask.tolist() == [[True, False, True, True, True], [False] * 5, [True] * 3 + [False] * 2]
    assert torch.equal(together.embedding.abs().sum(-1) > 0, together.mask)
    for row, vectors in enumerate(items):
        alone = conditioner(conditioner.prepare([vectors])).embedding[0]
        torch.testing.assert_close(together.embedding[row, : len(alone)], alone)
    with pytest.raises(ValueError, match=r"expected vectors \[T, 6\], got \[4, 5\]"):
        conditioner.prepare([torch.zeros(4, 5)])


def test_beat_and_chords_change_the_prediction_and_each_item_is_predicted_as_if_alone() -> None:
    model, codes = music_model(), random_codes(1, 7)
    whole = item()
    rows = [whole, whole.without(["beat"]), whole.without(["chords"]), Attributes(), item(seed=1)]
    assert [row.names for row in rows[:4]] == [("beat", "chords"), ("chords",), ("beat",), ()]
    with torch.no_grad():
        logits = model(codes.expand(len(rows), -1, -1), rows).logits
        for row, attributes in enumerate(rows):
            torch.testing.assert_close(logits[row], model(codes, [attributes]).logits[0], rtol=0, atol=1e-5)
    far = torch.cdist(logits.flatten(1), logits.flatten(1))[~torch.eye(len(rows), dtype=torch.bool)]
    assert far.min() > 1e-3


def test_a_changed_frame_changes_no_earlier_step_than_the_one_that_predicts_it() -> None:
    model, codes, whole = music_model(), random_codes(1, 7), item()
    changed = whole.chords.clone()
    changed[4] = changed[4].roll(1)
    with torch.no_grad():
        before, after = (
            model(codes, [attributes]).logits[0, 0]
            for attributes in (whole, Attributes(beat=whole.beat, chords=changed))
        )
    differs = (before != after).any(-1)
    assert not differs[:4].any()
    assert differs[4]


def test_a_condition_shorter_than_the_codes_is_refused() -> None:
    with pytest.raises(ValueError, match="expected beat of length 1 or at least 7"):
        music_model()(random_codes(1, 7), [item(5)])


def test_beat_and_chords_are_dropped_independently_with_their_own_probabilities() -> None:
    items, generator = [item()] * 4000, torch.Generator().manual_seed(0)
    kept = drop_attributes(items, {"beat": 0.3, "chords": 0.6}, generator)
    assert np.mean([left.beat is None for left in kept]) == pytest.approx(0.3, abs=0.03)
    assert np.mean([left.chords is None for left in kept]) == pytest.approx(0.6, abs=0.03)
    assert np.mean([not left.names for left in kept]) == pytest.approx(0.18, abs=0.03)


def test_a_frame_wise_condition_can_only_be_summed() -> None:
    for way in ("cross", "prepend", "interpolate"):
        with pytest.raises(ValidationError, match=r"expected beat, .*, in language_model\.sum, got it elsewhere"):
            config(language_model=config().language_model.model_dump() | {"sum": ("chords",), way: ("beat",)})
