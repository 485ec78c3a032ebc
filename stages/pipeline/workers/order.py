"""Many items worked on at a time, their results in the order of the items, and never more in hand than was allowed."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=object)
Result = TypeVar("Result")

PATIENCE = 0.5
"""Seconds between two looks at whether the run was asked to stop."""


@dataclass(frozen=True)
class _InWork(Generic[Item, Result]):
    item: Item
    load: float
    result: "Future[Result]"


def in_order(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    waiting: int,
    check_stopped: Callable[[], None],
    load: Callable[[Item], float] = lambda item: 0.0,
    most: float = math.inf,
) -> Iterator[tuple[Item, Result]]:
    """Each item with what `work` made of it; what `work` raises is raised in the item's turn. Close it to end early.

    Args:
        work: called in `threads` threads.
        items: asked for as there is room, in the caller's thread.
        waiting: items that may be in work or done ahead of the one that the caller has.
        check_stopped: asked while waiting and before each item is given; what it raises ends everything.
        load: what an item weighs, of which no more than `most` is in hand at a time, the caller's own item counted;
            an item that weighs more is in hand alone.
    """
    ahead, in_hand = deque[_InWork[Item, Result]](), 0.0
    remaining = iter(items)
    following = next(remaining, None)
    executor = ThreadPoolExecutor(max(1, threads))
    try:
        while True:
            while following is not None and len(ahead) < max(1, waiting):
                weight = load(following)
                if in_hand + weight > most and in_hand > 0:
                    break
                ahead.append(_InWork(following, weight, executor.submit(work, following)))
                in_hand += weight
                following = next(remaining, None)
            if not ahead:
                break
            while not wait([ahead[0].result], timeout=PATIENCE).done:
                check_stopped()
            check_stopped()
            first = ahead.popleft()
            yield first.item, first.result.result()
            in_hand -= first.load
    finally:
        # What is in work is not waited for: whoever stops may have to end it by other means.
        executor.shutdown(wait=False, cancel_futures=True)
