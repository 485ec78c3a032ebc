"""Retakes: takes that replace those that a person refused after listening."""

from collections.abc import Iterable

from schemas.queries.picks import Clip
from schemas.tables import Row
from stages.audio.references import RequestRefused


class RefusedTakes:
    """Takes that a person refused; a request gets one more take for each of them.

    Args:
        refused: the refused takes.
        most: the most takes that a request may have.
    """

    def __init__(self, refused: Iterable[Clip], most: int) -> None:
        self._most = most
        self._refused: dict[str, set[int]] = {}
        for request, take in refused:
            self._refused.setdefault(request, set()).add(take)

    @property
    def not_asked_for(self) -> list[Clip]:
        """The refused takes that belong to none of the requests that `retakes_of` was called for."""
        return sorted((request, take) for request, takes in self._refused.items() for take in takes)

    def retakes_of(self, row: Row) -> int:
        """Return how many takes a request gets in addition to those that its line asks for. A take that was made for a
        refused one may be refused too.

        Raises:
            RequestRefused: the request would have too many takes.
        """
        takes, refused = row["takes"], self._refused.get(row["request_id"], set())
        for take in sorted(refused):
            if take <= takes:
                refused.remove(take)
                takes += 1
        if takes > self._most:
            message = f"expected at most {self._most} (requests.max_takes), got {takes} with the replacements"
            raise RequestRefused("bad value", f"takes: {message}")
        return int(takes - row["takes"])
