"""Charts: every point inside the drawing, round ticks, labels that do not overlap."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.report.charts import HEIGHT, WIDTH, Series, line_chart

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False, allow_subnormal=False)


@given(st.lists(st.lists(NUMBERS, min_size=2, max_size=30), min_size=1, max_size=6))
def test_every_point_of_every_line_is_inside_the_axes(lines: list[list[float]]) -> None:
    chart = line_chart("c", "steps", [Series(str(n), range(len(y)), y) for n, y in enumerate(lines)])
    assert chart is not None
    for line in chart.lines:
        points = [tuple(map(float, pair.split())) for pair in re.split("[ML]", line.path)[1:]]
        assert all(chart.left <= x <= chart.right and chart.top <= y <= chart.bottom for x, y in points)
    assert 2 <= len(chart.y_ticks) <= 9
    assert all(chart.top - 0.1 <= tick.position <= chart.bottom + 0.1 for tick in chart.y_ticks)
    labels = sorted(line.label_y for line in chart.lines)
    assert all(after - before >= 13.9 for before, after in itertools.pairwise(labels))
    assert all(0 <= label <= HEIGHT for label in labels)


def test_larger_values_are_drawn_higher_and_later_ones_further_right() -> None:
    chart = line_chart("c", "steps", [Series("a", [0, 10], [1.0, 2.0])])
    assert chart is not None
    (x0, y0), (x1, y1) = [tuple(map(float, pair.split())) for pair in re.split("[ML]", chart.lines[0].path)[1:]]
    assert x1 > x0
    assert y1 < y0
    assert chart.lines[0].last == "2"
    assert chart.width == WIDTH


def test_a_long_series_is_thinned() -> None:
    chart = line_chart("c", "steps", [Series("a", range(10_000), [float(n % 2) for n in range(10_000)])])
    assert chart is not None
    assert 200 <= chart.lines[0].path.count("L") <= 240


def test_without_points_there_is_no_chart_and_uneven_series_are_refused() -> None:
    assert line_chart("c", "steps", [Series("a", [], []), Series("b", [1], [1.0])]) is None
    assert line_chart("c", "steps", [Series("a", [1, 2], [float("nan"), 1.0])]) is None
    with pytest.raises(ValueError, match="as many x as y for 'a', got 2 and 1"):
        line_chart("c", "steps", [Series("a", [1, 2], [1.0])])
