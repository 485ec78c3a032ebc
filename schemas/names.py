"""Names that are almost right: the nearest known name, for messages that suggest what was meant."""

import difflib
from collections.abc import Iterable

ALIKE = 0.6
"""Share of characters in common, in order, from which on a name may be meant (difflib's own default)."""


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like another one: by its letters, or as the only one that begins so; None
    where none is."""
    names = list(known)
    plain = {_plain(other): other for other in reversed(names)}
    beginning = [other for other in names if _plain(other).startswith(_plain(name))]
    if len(beginning) == 1:
        return beginning[0]
    nearest = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=ALIKE)
    return plain[nearest[0]] if nearest else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean …?)` to stand behind an unknown name; empty where no known one is near, or it is known,
    and something else is wrong with it."""
    names = list(known)
    nearest = None if name in names else nearest_name(name, names)
    return f" (did you mean {nearest}?)" if nearest else ""


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")
