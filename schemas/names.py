"""Names that are almost right: the nearest known name, for messages that suggest what was meant."""

import difflib
from collections.abc import Iterable

ALIKE = 0.6
"""Share of characters, in order, that two names must have in common for one to be suggested for the other (difflib's
default)."""


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is nearest to `name`: the only one that begins with it, or the one with the most
    similar spelling; None where none is similar enough."""
    names = list(known)
    plain = {_plain(other): other for other in reversed(names)}
    beginning = [other for other in names if _plain(other).startswith(_plain(name))]
    if len(beginning) == 1:
        return beginning[0]
    nearest = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=ALIKE)
    return plain[nearest[0]] if nearest else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean …?)` to append to an unknown name. Empty where no known name is near, or where the name is
    known and something else is wrong with it."""
    names = list(known)
    nearest = None if name in names else nearest_name(name, names)
    return f" (did you mean {nearest}?)" if nearest else ""


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")
