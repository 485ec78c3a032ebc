"""The time left of a run: from the pace of the current stage, and from the estimates of those after it."""

import io
import re

import pytest
from rich.console import Console

from flows.runs import run_pace
from flows.runs.estimates import Estimate
from flows.runs.progress import BarProgress, LineProgress
from flows.runs.run_pace import RunPace

ESTIMATES = [Estimate("ingest", 100.0, None), Estimate("chroma", 600.0, None), Estimate("train", None, None)]


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(run_pace, "time", clock)
    return clock


def test_the_time_left_is_the_rest_of_the_stage_and_the_estimates_of_those_after_it(clock: Clock) -> None:
    pace = RunPace([*ESTIMATES[:2], Estimate("decode", 20.0, None)])
    pace.begin("ingest")
    assert pace.left(0.0, 0) == "12 min left"
    clock.now += 60
    assert pace.left(0.9, 0) == "11 min left"  # with one shard, progress covers only the job in work
    assert pace.left(0.5, 1) == "11 min left"  # 60 s, 600 s, 20 s
    clock.now += 1_140
    assert pace.left(0.5, 1) == "30 min left"  # ten times slower than before
    pace.begin("chroma")
    assert (pace.done, pace.stages) == (1, 3)
    pace.begin("decode")
    clock.now += 5
    assert (pace.done, pace.left(0.0, 0)) == (2, "15 s left")


def test_stages_without_an_estimate_are_counted_as_unknown(clock: Clock) -> None:
    pace = RunPace(ESTIMATES)
    pace.begin("chroma")  # in the end, ingest had nothing to do
    assert (pace.done, pace.left(0.0, 0)) == (1, "10 min left + 1 unknown")
    pace.begin("train")
    assert pace.left(0.0, 0) is None
    clock.now += 30
    assert pace.left(0.25, 0) == "2 min left"


def test_a_run_of_one_stage_or_without_estimates_shows_no_time_left(clock: Clock) -> None:
    for estimates in ([], ESTIMATES[:1], [Estimate("ingest", None, None), Estimate("train", None, None)]):
        pace = RunPace(estimates)
        pace.begin("ingest")
        assert pace.left(0.0, 0) is None
        assert pace.left(0.5, 0) is None


def test_the_bar_of_the_run_fits_into_eighty_columns(clock: Clock) -> None:
    out = io.StringIO()
    with BarProgress(Console(file=out, force_terminal=True, width=80)) as progress:
        progress.expect(ESTIMATES)
        progress.begin_stage("ingest", 1)
        progress.begin_stage("chroma", 4)
        progress.start("chroma", 10, "tracks")
        progress.advance(5)
        clock.now += 60
        progress.end_job()
        progress._bars.refresh()
    lines = [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue()).splitlines()]
    assert max(map(len, lines)) <= 80
    assert any(re.match(r"the run +.* 1/3 stages  3 min left \+ 1 unknown$", line) for line in lines), lines
    assert any(re.match(r"chroma, all +.* 1/4 shards", line) for line in lines)


def test_lines_end_with_the_time_left_of_the_run(clock: Clock) -> None:
    lines: list[str] = []
    progress = LineProgress(lines.append, seconds=0)
    progress.expect(ESTIMATES)
    progress.begin_stage("chroma", 2)
    progress.start("chroma", 10, "tracks")
    progress.advance(5)
    assert lines[-1].endswith("; the run: 10 min left + 1 unknown")
