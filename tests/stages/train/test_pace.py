"""The duration of a training is told before its first step, and again after some steps were measured."""

import pytest

from stages.pipeline.contract import Progress
from stages.train.pace import TrainingPace


class Told(Progress):
    """The lines that were told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def tell(self, lines: list[str]) -> None:  # type: ignore[override]
        self.lines += lines


def test_the_devices_rate_and_validations_count_before_the_first_step() -> None:
    told = Told()
    pace = TrainingPace(told, steps=100, validations=10)
    pace.note_validation(36.0)
    pace.guess(flops=2e9, rate=1e9, utilisation=0.5)
    how = "at 50% of this machine's 1 GFLOP/s, as the last training did"
    assert told.lines == [f"train: about 13 min for 100 steps at most, 4 s a step {how}"]


@pytest.mark.parametrize("at_once", [1, 10])
def test_steps_are_measured_after_a_first_one_that_loads_everything_and_told_once(at_once: int) -> None:
    told = Told()
    pace = TrainingPace(told, steps=1000, validations=0)
    pace.note(at_once, 500.0)
    for _ in range(6):
        pace.note(at_once, 2.0 * at_once)
    measured = max(3, at_once)
    left = 1000 - at_once - measured
    assert told.lines == [
        f"train: about {2 * left / 60:.0f} min for {left} steps at most, 2 s a step measured on {measured} steps"
    ]


def test_no_duration_is_told_if_it_is_a_few_seconds() -> None:
    told = Told()
    TrainingPace(told, steps=3, validations=1).guess(flops=0.1, rate=1.0, utilisation=None)
    assert told.lines == []
