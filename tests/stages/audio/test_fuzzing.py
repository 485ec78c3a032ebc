"""Ten formats, broken at random: nothing crashes, nothing hangs, and no music is lost without a message."""

from collections import Counter

import pytest

from stages.pipeline.workers import Call, WorkerDied, WorkerPool, WorkerTimeout, map_in_order
from tests.worlds.fuzzing import FORMATS, Comparison, compare

SECONDS = 60.0
"""A file that takes longer counts as hanging."""


def _compared(count: int, threads: int) -> dict[int, Comparison]:
    """Compare files in worker processes."""
    pool = WorkerPool(("tests.worlds.fuzzing",))

    def outcome(number: int) -> Comparison:
        try:
            return pool.run(Call(compare, (number,)), SECONDS)
        except (WorkerDied, WorkerTimeout) as error:
            return Comparison(type(error).__name__, str(error), 0.0, 0.0, 0)

    try:
        return dict(map_in_order(outcome, range(count), threads, 32, lambda: None))
    finally:
        pool.close()


def _check(compared: dict[int, Comparison]) -> None:
    losses = {number: each for number, each in compared.items() if each.is_loss}
    assert losses == {}
    for each in compared.values():
        assert each.kind == "track" or (each.message.startswith("expected ") and ", got " in each.message), each
        assert "breaks the decoder" not in each.message, each


def test_hundreds_of_broken_files_are_read_whole_or_refused_with_a_message():
    compared = _compared(300, 1)
    _check(compared)
    assert sum(each.kind == "track" for each in compared.values()) > 50
    assert sum(each.kind != "track" for each in compared.values()) > 50


@pytest.mark.slow
def test_ten_thousand_broken_files_are_read_whole_or_refused_with_a_message(capsys):
    compared = _compared(10_000, 2)
    with capsys.disabled():
        for number, form in enumerate(FORMATS):
            group = [each for place, each in compared.items() if place % len(FORMATS) == number]
            tracks = [each for each in group if each.kind == "track"]
            warned = sum(each.warnings > 0 for each in tracks)
            longer = sum(each.seconds > each.ffmpeg_seconds + 0.05 for each in tracks)
            refused = dict(Counter(each.kind for each in group if each.kind != "track").most_common())
            print(f"\n{form}: {len(tracks)} tracks, {warned} with a warning, {longer} longer than FFmpeg's; {refused}")
    _check(compared)
