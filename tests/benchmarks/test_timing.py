"""How the sides of a benchmark are timed."""

import pytest

from tests.benchmarks.timing import clock_of, median_seconds


def test_sides_take_turns_and_the_first_turn_is_not_counted():
    taken: list[str] = []
    now = 0.0

    def side(name: str, seconds: list[float]):
        def act() -> None:
            nonlocal now
            taken.append(name)
            now += seconds.pop(0)

        return act

    ways = {"theirs": side("theirs", [100.0, 3.0, 1.0, 2.0]), "ours": side("ours", [50.0, 5.0, 5.0, 9.0])}
    assert median_seconds(ways, 3, lambda: now) == {"theirs": 2.0, "ours": 5.0}
    assert taken == ["theirs", "ours"] * 4


def test_processor_time_is_refused_as_the_clock_of_an_accelerator():
    with pytest.raises(ValueError, match="expected --device cpu with --cpu-time, got cuda"):
        clock_of("cuda", cpu_time=True)
