"""Who plays: the artists that a text names, and splits by connected artists, so that none is in two.

**One text, several artists.** `;`, ` / `, `feat.`, `ft.`, `featuring`, `vs.` and ` x ` always part names, as do several
values of one tag. An `&` parts them too, but not where a comma stands before it or `the`, `his`, `her`, `their` after
it: `Earth, Wind & Fire` and `Bob Marley & The Wailers` are bands. A comma or an `and` alone parts nothing. Names that
stand for nobody (`Various Artists`, `unknown`) are no artists.

**Splits.** Tracks with an artist in common are in one group, and so are groups that a track connects. Names that were
left whole above count with their parts here (`Earth, Wind & Fire` with `Fire`), so that caution leaks nothing. Every
artist, and every track without one, has a split by its hash. A recording that sounds like a copy of others
(`stages.ingest.duplicates`) is in one group with them. A group is in `train` if any of its artists is there, or
any of its tracks was; else in `valid` by the same rule, else in `test`. So the order of arrival does not matter, a
track that connects two groups moves rows only towards `train`, and nothing that was trained on is ever held out.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache

_ALWAYS = re.compile(
    r"\s*;\s*|\s+/\s+|\s*[(\[]\s*with\s+|\s*[(\[]?\s*\b(?:feat|ft|featuring)\b\.?\s+|\s+(?:vs\.?|versus|x|×)\s+",
    re.IGNORECASE,
)

_FEATURED = re.compile(r"[(\[]\s*(?:feat|ft|featuring)\b\.?\s+([^)\]]+)[)\]]", re.IGNORECASE)
"""Where a title names further artists."""

_AMPERSAND = re.compile(r"\s*[&＆]\s*+(?!(?:the|his|her|their)\b)", re.IGNORECASE)

_PARTS = re.compile(r"\s*[,&]\s*")

LINK = "recording:"
"""How keys begin that connect, and have no split of their own."""

NOBODY = frozenset(
    (
        *("various", "various artists", "va", "v.a.", "v/a", "unknown", "unknown artist", "artist", "no artist"),
        *("n/a", "none", "null", "-", "?", "[unknown]", "<unknown>", "untitled", "anonymous"),
    )
)
"""What stands where nobody is known, in lower case."""

GENERIC = frozenset(
    (*("friends", "others", "guests", "orchestra", "choir", "band", "company", "co", "co.", "sons", "family", "more"),)
)
"""Parts of a band's name that are no artist's name, in lower case: they would connect whoever has them."""

SPLITS = ("train", "valid", "test")
"""A group is in the first of these that any of its members is in."""


def split_names(text: str) -> list[str]:
    """Return the artists that a text names, by the rule above; none where it names nobody."""
    names: list[str] = []
    for piece in _ALWAYS.split(text):
        piece = _closed(piece.strip())
        names += [piece] if "," in piece else _AMPERSAND.split(piece)
    names = [name.strip() for name in names]
    return [name for name in names if name and name.casefold() not in NOBODY]


def distinct(names: Iterable[str]) -> list[str]:
    """Return names, each once however it is spelled."""
    return list({artist_key(name): name for name in reversed(list(names))}.values())[::-1]


def featured_names(title: str) -> list[str]:
    """Return the artists that a title names in brackets, as in `Song (feat. Somebody)`."""
    return [name for names in _FEATURED.findall(title) for name in split_names(names)]


@lru_cache(2**16)  # a catalog has several tracks of an artist, and a run with new ones asks of each several times
def artist_key(name: str) -> str:
    """Return what names of one artist have in common: not case, Unicode form, `and` or `&`, nor a `the` before it."""
    plain = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    return re.sub(r" and ", " & ", plain).removeprefix("the ") or plain


def group_keys(artists: Sequence[str], track_id: str) -> list[str]:
    """Return what connects a track with others: its artists and the parts of their names, or nothing but itself."""
    keys: dict[str, None] = {}
    for name in artists:
        whole = artist_key(name)
        keys[f"artist:{whole}"] = None
        for part in _PARTS.split(whole):
            part = part.removeprefix("the ")
            if part and part not in GENERIC and not part.startswith(("his ", "her ", "their ")):
                keys[f"artist:{part}"] = None
    return list(keys) or [f"track:{track_id}"]


def copy_keys(track_id: str, copies_of: Sequence[str]) -> list[str]:
    """Return what connects a recording with those that it is a copy of, whether or not they are still there: two copies
    of a recording that is gone stay together."""
    return [f"{LINK}{each}" for each in (track_id, *copies_of)]


def split_of(key: str, valid: float, test: float) -> str:
    """Return the split of an artist or a track by its hash.

    Args:
        key: one of `group_keys`.
        valid, test: shares of the splits; the rest is `train`.
    """
    position = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    if position >= valid + test:
        return "train"
    return "valid" if position < valid else "test"


class ArtistGroups:
    """Tracks in groups, by whatever connects them (a union-find forest over their keys), and the split of each group.

    Args:
        valid, test: shares of the splits.
    """

    def __init__(self, valid: float, test: float) -> None:
        self._shares = (valid, test)
        self._parents: dict[str, str] = {}
        self._ranks: dict[str, int] = {}
        """The place in SPLITS of each group's split, by its root."""

    def connect(self, keys: Sequence[str], split: str | None) -> None:
        """Put all `keys` (`group_keys`, or anything else that must not be in two splits) into one group.

        Args:
            split: where a track with them was before, which holds on if it comes first in SPLITS.
        """
        root = self._root(keys[0])
        for key in keys[1:]:
            other = self._root(key)
            if other != root:
                self._parents[other] = root
                self._ranks[root] = min(self._ranks[root], self._ranks.pop(other))
        if split in SPLITS:
            self._ranks[root] = min(self._ranks[root], SPLITS.index(split))

    def split(self, key: str) -> str:
        """Return the split of the group that a key is in."""
        return SPLITS[self._ranks[self._root(key)]]

    def _root(self, key: str) -> str:
        if key not in self._parents:
            self._parents[key] = key
            split = SPLITS[-1] if key.startswith(LINK) else split_of(key, *self._shares)
            self._ranks[key] = SPLITS.index(split)
            return key
        while (parent := self._parents[key]) != key:
            self._parents[key] = self._parents[parent]  # halves the path for whoever comes next
            key = self._parents[key]
        return key


def _closed(piece: str) -> str:
    """Return a piece without the bracket that was opened before it, or the one that was closed after."""
    if piece.endswith((")", "]")) and not re.search(r"[(\[]", piece):
        return piece[:-1].rstrip()
    return piece
