"""Work ahead: in order, bounded in number and in weight, ended at once by a stop or by whoever closes it."""

import threading
import time

import pytest

from stages.pipeline.contract import Stopped
from stages.pipeline.workers import map_in_order


def nothing() -> None:
    pass


def test_results_come_in_the_order_of_the_items_whichever_is_done_first():
    def slow_at_first(item: int) -> int:
        time.sleep(0.02 * (10 - item))
        return item * item

    found = list(map_in_order(slow_at_first, range(1, 10), 4, 4, nothing))
    assert found == [(item, item * item) for item in range(1, 10)]


def test_no_more_items_are_ahead_than_were_allowed():
    begun: list[int] = []
    results = map_in_order(lambda item: begun.append(item), range(1, 100), 8, 3, nothing)
    next(results)
    time.sleep(0.2)
    assert sorted(begun) == [1, 2, 3]
    next(results)
    time.sleep(0.2)
    assert sorted(begun) == [1, 2, 3, 4]
    results.close()


def test_what_is_in_hand_weighs_no_more_than_was_allowed_and_what_weighs_more_is_in_hand_alone():
    begun: list[int] = []
    weights = [4, 3, 20, 2, 2, 2]
    results = map_in_order(begun.append, weights, 8, 8, nothing, load=float, max_load=8.0)
    ahead = []
    for _ in weights:
        next(results)
        time.sleep(0.1)
        ahead.append(sum(begun))
    assert ahead == [7, 7, 27, 33, 33, 33]
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


def test_a_stop_ends_the_waiting_though_the_work_goes_on():
    done, stop = threading.Event(), threading.Event()

    def check() -> None:
        if stop.is_set():
            raise Stopped("asked to")

    results = map_in_order(lambda item: done.wait(30), range(1, 9), 2, 4, check)
    threading.Timer(0.2, stop.set).start()
    begun = time.monotonic()
    with pytest.raises(Stopped):
        next(results)
    assert time.monotonic() - begun < 5
    done.set()


def test_items_are_asked_for_as_there_is_room():
    given: list[int] = []

    def items():
        for item in range(1, 50):
            given.append(item)
            yield item

    results = map_in_order(lambda item: item, items(), 2, 3, nothing)
    next(results)
    assert given == [1, 2, 3, 4]
    results.close()


def test_nothing_to_do_is_done_at_once():
    assert list(map_in_order(lambda item: item, [], 2, 2, nothing)) == []
