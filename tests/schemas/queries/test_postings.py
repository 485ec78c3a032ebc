"""Postings: the rows with most keys in common are those of a plain count, however common a key is."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from schemas.queries.postings import WEIGHT, Keys, most_in_common


def batches(rows: dict[int, list[int]], a_batch: int = 2) -> list[Keys]:
    """Rows with their keys, `a_batch` rows a batch."""
    found = []
    numbers = list(rows)
    for start in range(0, len(numbers), a_batch):
        part = numbers[start : start + a_batch]
        lengths = [len(rows[number]) for number in part]
        keys = np.concatenate([np.zeros(0, np.uint64), *(np.array(rows[number], np.uint64) for number in part)])
        found.append(Keys(np.repeat(part, lengths).astype(np.int64), keys))
    return found


def pairs(asked: dict[int, list[int]], known: dict[int, list[int]], **limits: float) -> list[tuple[int, int]]:
    found = most_in_common(batches(asked), batches(known), **limits)
    return list(zip(found.asked.tolist(), found.others.tolist(), strict=True))


def counted(asked: dict[int, list[int]], known: dict[int, list[int]], earliest: int, least: float, most: int) -> set:
    """The same in plain Python."""
    everything = {**known, **asked}
    having = {key: sorted(n for n in everything if key in everything[n]) for keys in asked.values() for key in keys}
    found = set()
    for row, keys in asked.items():
        weight = Counter[int]()
        for key in keys:
            for other in having[key][:earliest]:
                if other != row and (other < row or other in known):
                    weight[other] += WEIGHT // min(len(having[key]), earliest)
        ranked = sorted((n for n in weight if weight[n] >= least * WEIGHT), key=lambda n: (-weight[n], n))
        found |= {(row, other) for other in ranked[:most]}
    return found


lists = some.lists(some.integers(0, 30), max_size=12, unique=True)


@settings(max_examples=15, deadline=None)
@given(
    some.lists(lists, max_size=8), some.integers(0, 8), some.integers(2, 4), some.sampled_from([0.25, 0.5, 1.0, 1.5])
)
def test_the_rows_with_most_keys_in_common_are_those_of_a_plain_count(rows, first_asked, earliest, least):
    known = dict(enumerate(rows[:first_asked]))
    asked = {number: keys for number, keys in enumerate(rows) if number >= first_asked}
    assert set(pairs(asked, known, earliest=earliest, least=least, most=99)) == counted(
        asked, known, earliest, least, 99
    )


def test_rare_keys_count_more_than_common_ones_and_the_most_in_common_comes_first():
    common = {number: [1, 2, 3, 4] for number in range(6)}
    asked = {6: [1, 2, 3, 4, 77, 78], 7: [1, 2, 3, 4, 77, 78]}
    assert pairs(asked, common, earliest=9, least=0.5, most=2) == [(6, 0), (6, 1), (7, 6), (7, 0)]
    assert pairs(asked, common, earliest=9, least=0.6, most=2) == [(7, 6)]


def test_a_key_of_all_rows_leads_only_to_the_earliest_so_work_grows_linearly():
    rows = {number: [1, 2, 3] for number in range(300)}
    found = pairs(rows, {}, earliest=4, least=0.75, most=99)
    assert len(found) <= 4 * len(rows)
    assert {row for row, _ in found} == set(range(1, 300))


def test_later_rows_add_no_pairs_to_earlier_ones():
    draw = np.random.default_rng(0)
    rows = {number: draw.choice(40, 10, replace=False).tolist() for number in range(12)}
    at_once = set(pairs(rows, {}, earliest=3, least=0.5, most=99))
    one_by_one = set[tuple[int, int]]()
    for number in rows:
        known = {other: rows[other] for other in rows if other < number}
        one_by_one |= set(pairs({number: rows[number]}, known, earliest=3, least=0.5, most=99))
    assert {row for row, other in at_once} > {7}
    assert at_once <= one_by_one


def test_all_of_many_copies_are_found():
    """A key that all rows have counts little, but there are many such keys."""
    rows = {number: list(range(30)) for number in range(100)}
    found = pairs(rows, {}, earliest=16, least=1.0, most=8)
    assert {row for row, _ in found} == set(range(1, 100))


def test_no_rows_give_no_pairs():
    assert pairs({}, {0: [1, 2, 3]}) == []
    assert pairs({}, {}) == []


def test_an_error_while_reading_a_batch_is_raised():
    def fails():
        yield from batches({0: [1, 2, 3]})
        raise OSError("the disk failed")

    with pytest.raises(OSError, match="the disk failed"):
        most_in_common(fails(), [])
    with pytest.raises(OSError, match="the disk failed"):
        most_in_common(batches({1: [1, 2, 3]}), fails())
