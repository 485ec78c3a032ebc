"""Prints and copies: planted copies are found, and distinct pieces on the same chords are not taken for copies."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy.ndimage import maximum_filter1d

from stages.analysis import PrintIndex, compare, take_print
from stages.analysis.prints import SAMPLE_RATE, PrintMeter, constellations, loudest_within
from tests.worlds.planted_copies import PLANTS, RATE, at_speed, excerpt, piece, print_of

PIECES = range(12)
SEVERE = "another, as loud, on top"
"""The plant that is found in some pieces only (docs/originality.md)."""


@pytest.fixture(scope="module")
def prints():
    return [print_of(piece(index)) for index in PIECES]


@pytest.mark.parametrize("name", [name for name in PLANTS if name != SEVERE])
def test_a_planted_copy_is_found_in_its_source_and_in_no_other_piece(name, prints):
    index = 4
    copy = PLANTS[name](piece(index), piece(index + 1), 0.4)
    strengths = {}
    for other, passage in PrintIndex([print_of(copy)]).passages(prints[index]):
        assert other == 0
        strengths[index] = passage.strength
    assert strengths[index] > 2.5
    for other in set(PIECES) - {index, index + 1}:
        passage = compare(print_of(copy), prints[other])
        assert passage is None or passage.strength < 2.0


def test_distinct_pieces_on_shared_chords_are_not_copies(prints):
    found = PrintIndex(prints)
    for place, each in enumerate(prints):
        for other, passage in found.passages(each):
            seconds = [len(piece(number)) / RATE for number in (place, other)]
            assert (passage.likeness(*seconds) > 0.45) == (place == other)


def test_a_passage_lies_where_the_excerpt_was_cut(prints):
    sound = piece(3)
    cut = np.concatenate([excerpt(piece(7), 2, 0), sound[3 * RATE : 8 * RATE]])
    passage = compare(print_of(cut), prints[3])
    assert passage is not None
    assert abs(passage.begin - 2) < 0.7
    assert abs(passage.other_begin - passage.begin - 1) < 0.1
    assert 4 < passage.seconds < 5.6


@pytest.mark.parametrize("speed", [0.98, 1.0, 1.015])
def test_the_speed_of_a_copy_is_measured(speed):
    sound = np.concatenate([piece(index) for index in (2, 5, 6)])
    passage = compare(print_of(at_speed(sound, speed)), print_of(sound))
    assert passage is not None
    assert abs(passage.speed - speed) <= 0.0051
    assert passage.seconds > 0.8 * len(sound) / RATE / speed


def test_silence_has_no_print_and_is_a_copy_of_nothing(prints):
    silence = take_print(np.zeros(3 * SAMPLE_RATE, np.float32))
    assert len(silence) == 0
    assert len(take_print(np.zeros(0, np.float32))) == 0
    assert compare(silence, silence) is None
    assert compare(silence, prints[0]) is None
    assert list(PrintIndex([]).passages(prints[0])) == []


@settings(max_examples=5, deadline=None)
@given(some.lists(some.integers(1, 200_000), max_size=4), some.integers(0, 2**16))
def test_a_print_does_not_depend_on_the_blocks_of_a_recording(cuts, seed):
    draw = np.random.default_rng(seed)
    noise = np.repeat(draw.standard_normal(SAMPLE_RATE * 300 // 8), 8).astype(np.float32)
    meter = PrintMeter()
    for block in np.split(noise, sorted(cuts)):
        meter.update(block)
    whole, blocks = take_print(noise), meter.result()
    assert np.array_equal(whole.frames, blocks.frames)
    assert np.array_equal(whole.pitches, blocks.pitches)
    assert np.all(np.diff(whole.frames) >= 0)


@pytest.mark.parametrize("reach", [1, 6, 12, 62])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_loudest_within_reach_equals_scipys_filter(reach, axis):
    magnitudes = np.random.default_rng(reach).random((40, 30)).astype(np.float32)
    expected = maximum_filter1d(magnitudes, 2 * reach + 1, axis, mode="constant")
    assert np.array_equal(loudest_within(magnitudes, reach, axis), expected)


def test_comparing_one_print_with_many_equals_comparing_each_alone(prints):
    index = PrintIndex([prints[4]])
    assert [index.longest(other) for other in prints] == [compare(prints[4], other) for other in prints]
    assert index.longest(prints[4]).share == 1.0


def test_a_print_does_not_depend_on_the_gain():
    sound = piece(0)
    # A power of two, because repeated sound has peaks of equal height, and with another gain rounding would choose
    # among them.
    loud, quiet = print_of(sound), print_of(sound * 2.0**-7)
    assert compare(loud, quiet).share == 1.0


def test_loose_constellations_include_all_strict_ones(prints):
    strict, loose = constellations(prints[0]), constellations(prints[0], loosely=True)
    assert len(strict.hashes) > 100
    assert set(zip(loose.frames, loose.hashes, strict=True)).issuperset(zip(strict.frames, strict.hashes, strict=True))
