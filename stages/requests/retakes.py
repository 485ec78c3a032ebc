"""Takes that are made for those that a person refused by ear."""

from collections.abc import Iterable

from schemas.queries.picks import Clip
from schemas.tables import Row
from stages.audio.references import RequestRefused


class RefusedTakes:
    """Takes that a person refused, for each of which a request is to have one more.

    Args:
        refused: those takes.
        most: how many takes a request may have.
    """

    def __init__(self, refused: Iterable[Clip], most: int) -> None:
        self._most = most
        self._refused: dict[str, set[int]] = {}
        for request, take in refused:
            self._refused.setdefault(request, set()).add(take)

    @property
    def not_asked_for(self) -> list[Clip]:
        """Those that none of the requests has that retakes were counted for."""
        return sorted((request, take) for request, takes in self._refused.items() for take in takes)

    def retakes_of(self, row: Row) -> int:
        """Return how many takes a request is to have beside those that its line asks for: what is made for a refused
        one may be refused too.

        Raises:
            RequestRefused: that would be too many.
        """
        takes, refused = row["takes"], self._refused.get(row["request_id"], set())
        for take in sorted(refused):
            if take <= takes:
                refused.remove(take)
                takes += 1
        if takes > self._most:
            message = f"expected at most {self._most} (requests.max_takes), got {takes} with those for refused ones"
            raise RequestRefused("bad value", f"takes: {message}")
        return int(takes - row["takes"])
