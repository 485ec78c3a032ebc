"""What a benchmark reports about its figures."""

import pytest

from tests.benchmarks.results import HEADER, Figure, Report, goals, headed, number


def test_less_of_a_time_and_more_of_a_rate_is_better():
    time = Figure("a step", "s", 2.0, "less", peer=6.0, ratio_goal=2.5, limit=1.0)
    rate = Figure("audio", "s a second", 30.0, "more", peer=10.0, ratio_goal=2.5, limit=60.0)
    for figure in (time, rate):
        assert figure.ratio == pytest.approx(3.0)
        assert figure.share_of_limit == pytest.approx(0.5)
        assert figure.reached is True


@pytest.mark.parametrize(("better", "ours", "limit"), [("less", 1.0, 1.35), ("more", 135.0, 100.0)])
def test_the_limit_of_a_figure_that_beats_it_is_unknown(better, ours, limit):
    figure = Figure("encoding", "s", ours, better, limit=limit)
    assert figure.share_of_limit is None
    assert figure.cells()[HEADER.index("share of the limit")] == "unknown"
    assert Figure("encoding", "s", limit, better, limit=limit).share_of_limit == 1


@pytest.mark.parametrize(("better", "reaching", "missing"), [("less", 10.0, 10.1), ("more", 10.0, 9.9)])
def test_a_figure_at_its_goal_reaches_it_and_a_worse_one_does_not(better, reaching, missing):
    assert Figure("", "s", reaching, better, goal=10.0).reached is True
    assert Figure("", "s", missing, better, goal=10.0).reached is False
    assert Figure("", "s", missing, better).reached is None


def test_a_ratio_below_its_goal_does_not_reach_it():
    assert Figure("", "s", 2.0, "less", peer=2.9, ratio_goal=1.5).reached is False


def test_columns_that_no_figure_fills_are_left_out_and_the_peer_is_named():
    report = Report("Steps", "transformers")
    report.add(Figure("float32", "s", 2.0, "less", peer=3.0, ratio_goal=1.4))
    report.add(Figure("bfloat16", "s", 1.0, "less", peer=3.0))
    report.say("Of one machine.")
    lines = report.markdown().splitlines()
    assert lines[0] == "### Steps"
    assert lines[2] == "| what | unit | transformers | here | ratio | goal | reached |"
    assert lines[4] == "| float32 | s | 3 | 2 | 1.50 | ≥ 1.4 × | yes |"
    assert lines[5] == "| bfloat16 | s | 3 | 1 | 3.00 |  |  |"
    assert lines[-1] == "Of one machine."


def test_every_row_has_a_cell_for_each_heading():
    assert len(Figure("", "s", 1.0, "less", peer=2.0, goal=3.0, limit=0.5, equal="all").cells()) == len(HEADER)


def test_goals_are_counted_and_missed_ones_named():
    report = Report("Steps, in all", "transformers")
    report.add(Figure("float32", "s", 2.0, "less", peer=3.0, ratio_goal=1.4))
    assert goals([report]) == "1 of 1 goals are reached."
    report.add(Figure("bfloat16", "s", 2.0, "less", peer=3.0, ratio_goal=2.5))
    report.add(Figure("int8", "s", 2.0, "less", peer=3.0))
    assert goals([report]) == "1 of 2 goals are reached; missed: steps: bfloat16."


@pytest.mark.parametrize(
    ("value", "written"), [(None, ""), (0.012345, "0.0123"), (55.72, "55.7"), (177.4, "177"), (1234567.8, "1,234,568")]
)
def test_a_number_has_three_digits_or_all_digits_of_its_integer_part(value, written):
    assert number(value) == written


def test_a_run_is_headed_by_date_and_machine():
    written = headed([Report("Steps")], "a machine, 2 cores", "load 0.1")
    assert written.startswith("## 2")
    assert ", a machine, 2 cores\n\nload 0.1. 0 of 0 goals are reached.\n\n### Steps\n" in written
