"""Remarks: what a stage notices of its input and goes on, counted by what it is and where."""

import threading
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Remark:
    """Something that a stage noticed and went on: a row of `remarks`."""

    what: str
    """A sentence that is the same for all things of its kind, such as `rows that name no recording`."""
    location: str
    """The file, folder or field that all of it was noticed in; empty where there is no such one."""
    count: int
    examples: tuple[str, ...]


class Remarks:
    """What one job of a stage notices, counted by what it is and where; several threads may add to it.

    What an earlier job noticed in the same shard is replaced, so a remark says what is so now."""

    EXAMPLES = 3
    """How many different examples are kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], dict[str, None]] = {}

    def add(self, what: str, location: str = "", example: str = "", count: int = 1) -> None:
        """Notice something once more.

        Args:
            what: a sentence that is the same for all things of its kind.
            location: the file, folder or field that it was noticed in.
            example: the thing itself, such as a name; the first few are kept.
            count: how many there are of it.
        """
        with self._lock:
            self._counts[what, location] += count
            examples = self._examples.setdefault((what, location), {})
            if example and len(examples) < self.EXAMPLES:
                examples[example] = None

    def add_all(self, what: str, location: str, examples: Collection[str], count: int | None = None) -> None:
        """Notice the same of several things.

        Args:
            count: how many they are, where `examples` are not all of them.
        """
        for example in list(examples)[: self.EXAMPLES]:
            self.add(what, location, example, count=0)
        if examples or count:
            self.add(what, location, count=len(examples) if count is None else count)

    def update(self, other: "Remarks") -> None:
        """Take over what was noticed elsewhere."""
        for remark in other.all():
            self.add_all(remark.what, remark.location, remark.examples, remark.count)

    def all(self) -> list[Remark]:
        """Return what was noticed, sorted by what and where."""
        with self._lock:
            return sorted(Remark(*key, count, tuple(self._examples[key])) for key, count in self._counts.items())
