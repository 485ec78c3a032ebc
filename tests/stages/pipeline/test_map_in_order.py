"""Working ahead: results in order, bounded in number and load, ended at once by a stop or when closed."""

import threading
import time

import pytest

from stages.pipeline.contract import Stopped
from stages.pipeline.workers import map_in_order
from tests.worlds.patience import PATIENCE_SECONDS, wait_for


def nothing() -> None:
    pass


def test_results_come_in_the_order_of_the_items():
    def slow_at_first(item: int) -> int:
        time.sleep(0.02 * (10 - item))
        return item * item

    found = list(map_in_order(slow_at_first, range(1, 10), 4, 4, nothing))
    assert found == [(item, item * item) for item in range(1, 10)]


def sum_once_it_is_as_expected(numbers: list[int], expected: int) -> int:
    """The sum of numbers that other threads add to, read a moment after it reaches the expected value, so that an
    excess shows."""
    wait_for(lambda: sum(numbers) >= expected, every=0.01, seen=lambda: numbers)
    time.sleep(0.1)
    return sum(numbers)


def test_no_more_items_are_begun_ahead_than_allowed():
    begun: list[int] = []
    results = map_in_order(lambda item: begun.append(item), range(1, 100), 8, 3, nothing)
    next(results)
    assert sum_once_it_is_as_expected(begun, 6) == 6
    next(results)
    assert sum_once_it_is_as_expected(begun, 10) == 10
    assert sorted(begun) == [1, 2, 3, 4]
    results.close()


def test_items_in_progress_stay_below_the_maximum_load_and_a_heavier_one_runs_alone():
    begun: list[int] = []
    weights = [4, 3, 20, 2, 2, 2]
    results = map_in_order(begun.append, weights, 8, 8, nothing, load=float, max_load=8.0)
    for expected in (7, 7, 27, 33, 33, 33):
        next(results)
        assert sum_once_it_is_as_expected(begun, expected) == expected
    assert list(results) == []


def test_an_error_is_raised_in_the_turn_of_its_item():
    def work(item: int) -> int:
        if item == 3:
            raise ConnectionError("gone")
        return item

    results = map_in_order(work, range(1, 9), 4, 4, nothing)
    assert [next(results)[1], next(results)[1]] == [1, 2]
    with pytest.raises(ConnectionError, match="gone"):
        next(results)
    assert list(results) == []


def test_a_stop_ends_the_waiting_while_the_work_continues():
    done, stop = threading.Event(), threading.Event()

    def check() -> None:
        if stop.is_set():
            raise Stopped("asked to")

    results = map_in_order(lambda item: done.wait(2 * PATIENCE_SECONDS), range(1, 9), 2, 4, check)
    threading.Timer(0.2, stop.set).start()
    begun = time.monotonic()
    with pytest.raises(Stopped):
        next(results)
    assert time.monotonic() - begun < PATIENCE_SECONDS
    done.set()


def test_items_are_requested_when_there_is_room():
    given: list[int] = []

    def items():
        for item in range(1, 50):
            given.append(item)
            yield item

    results = map_in_order(lambda item: item, items(), 2, 3, nothing)
    next(results)
    assert given == [1, 2, 3, 4]
    results.close()


def test_no_items_give_no_results():
    assert list(map_in_order(lambda item: item, [], 2, 2, nothing)) == []
