"""Remarks: what a stage noticed about its input without stopping, counted by kind and place."""

import threading
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Remark:
    """Something that a stage noticed without stopping: a row of `remarks`."""

    what: str
    """A text that is the same for all remarks of its kind, such as `rows that name no recording`."""
    location: str
    """The file, folder or field that all of them are in; empty if they share none."""
    count: int
    examples: tuple[str, ...]


class Remarks:
    """Collects what one job of a stage notices, counted by kind and place. Several threads may add to it.

    The remarks of a job replace those of the last job for the same shard, so remarks say what holds now."""

    EXAMPLES = 3
    """How many different examples are kept for each remark."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], dict[str, None]] = {}

    def add(self, what: str, location: str = "", example: str = "", count: int = 1) -> None:
        """Add to the count of one remark.

        Args:
            what: a text that is the same for all remarks of its kind.
            location: the file, folder or field that this was noticed in.
            example: what was noticed, such as a name; the first few are kept.
            count: how often this was noticed.
        """
        with self._lock:
            self._counts[what, location] += count
            examples = self._examples.setdefault((what, location), {})
            if example and len(examples) < self.EXAMPLES:
                examples[example] = None

    def add_all(self, what: str, location: str, examples: Collection[str], count: int | None = None) -> None:
        """Add the same remark for several things.

        Args:
            count: how many things there are, if `examples` are only some of them.
        """
        for example in list(examples)[: self.EXAMPLES]:
            self.add(what, location, example, count=0)
        if examples or count:
            self.add(what, location, count=len(examples) if count is None else count)

    def update(self, other: "Remarks") -> None:
        """Add the remarks that were collected elsewhere."""
        for remark in other.all():
            self.add_all(remark.what, remark.location, remark.examples, remark.count)

    def all(self) -> list[Remark]:
        """Return the remarks, sorted by kind and place."""
        with self._lock:
            return sorted(Remark(*key, count, tuple(self._examples[key])) for key, count in self._counts.items())
