"""How long the rest of an order takes, measured on its first clips."""

import time
from collections.abc import Sequence

import pytest

from stages.generate.pace import Pace
from stages.pipeline.contract import Progress


class Told(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def tell(self, lines: Sequence[str]) -> None:
        self.lines += lines


def test_the_time_left_is_told_once_by_the_pace_of_the_first_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Told()
    pace = Pace(progress)
    pace.start(5_000)
    pace.skip(1_000)
    pace.begin_batch()
    now[0] += 20
    pace.advance(800, "")
    pace.tell(400)
    pace.advance(400, "")
    pace.tell(400)
    told = "10.0 s for a clip of 400 frames, measured on the first; about 80 s for the 3,200 remaining frames"
    assert progress.lines == [f"generate: {told}"]


def test_no_time_is_told_if_nothing_is_left() -> None:
    progress = Told()
    pace = Pace(progress)
    pace.start(400)
    pace.begin_batch()
    pace.advance(400, "")
    pace.tell(400)
    assert progress.lines == []
