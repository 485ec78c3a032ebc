"""The figures of patterns show the patterns."""

import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.lm import patterns
from model.lm.pattern_figure import pattern_cells, pattern_svg, pattern_text
from model.lm.patterns import Pattern

PATTERNS = [
    patterns.delayed(5, (0, 1, 2, 3)),
    patterns.delayed(5, (0, 0, 0, 0)),
    patterns.delayed(5, (0, 0, 1, 1, 2, 2, 3, 3)),
    patterns.unrolled(3, (0, 1, 2, 3), (0, 0, 0, 0)),
    patterns.coarse_first(4, (0, 1, 2)),
    patterns.grouped(4, 4, 2),
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_code_appears_once_in_its_row_and_in_order(pattern: Pattern) -> None:
    for row in pattern_cells(pattern):
        assert [frame for frame in row if frame is not None] == list(range(1, pattern.frames + 1))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5), st.integers(1, 6))
def test_the_column_of_a_code_is_its_step_in_the_sequence(delays: list[int], frames: int) -> None:
    pattern = patterns.delayed(frames, tuple(delays))
    indexes = pattern.sequence_placement("full").indexes
    for codebook, row in enumerate(pattern_cells(pattern)):
        for step, frame in enumerate(row):
            if frame is not None:
                assert indexes[codebook, step] == frame - 1 + codebook * frames


def test_the_lines_of_the_text_align() -> None:
    lines = pattern_text(patterns.delayed(12, (0, 1))).splitlines()
    assert lines[0].startswith("step      ")
    assert lines[2].split() == ["codebook", "2", "·", "·", *map(str, range(1, 13))]
    assert len({len(line) for line in lines}) == 1


def test_the_image_is_well_formed_and_holds_the_title_as_text() -> None:
    root = ElementTree.fromstring(pattern_svg(patterns.delayed(3, (0, 1)), 'a "delay" <of> one & more'))
    texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0] == 'a "delay" <of> one & more'
    assert [text for text in texts if text and re.fullmatch(r"\d", text)].count("3") == 3  # two codes and a step
