"""Artists: the names in a text, and splits by connected artists, so that no artist is in two splits.

**Several artists in one text.** `;`, ` / `, `feat.`, `ft.`, `featuring`, `vs.` and ` x ` always separate names, and so
do several values of one tag. `&` separates names too, except in a text with a comma and before `the`, `his`, `her` or
`their`: `Earth, Wind & Fire` and `Bob Marley & The Wailers` are bands. A comma or an `and` alone separates nothing.
Names that stand for nobody (`Various Artists`, `unknown`) are dropped.

**Splits.** Tracks with an artist in common are in one group, and a track that belongs to two groups joins them. A name
that was left whole above also counts as each of its parts here (`Earth, Wind & Fire` also as `Fire`), so that not
separating it leaks nothing. A recording that sounds like a copy of others (`stages.ingest.duplicates`) is in their
group. Every artist, and every track without one, has a split by its hash. A group is in `train` if this is the split of
any of its artists, or if any of its tracks was there before. Otherwise it is in `valid` by the same rule, otherwise in
`test`. So the order of arrival does not matter, a track that joins two groups moves rows only towards `train`, and
nothing that was trained on is ever held out.
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
"""The names in brackets by which a title credits further artists."""

_AMPERSAND = re.compile(r"\s*[&＆]\s*+(?!(?:the|his|her|their)\b)", re.IGNORECASE)

_PARTS = re.compile(r"\s*[,&]\s*")

LINK = "recording:"
"""Prefix of keys that only connect recordings: they have no split of their own."""

NOBODY = frozenset(
    (
        *("various", "various artists", "va", "v.a.", "v/a", "unknown", "unknown artist", "artist", "no artist"),
        *("n/a", "none", "null", "-", "?", "[unknown]", "<unknown>", "untitled", "anonymous"),
    )
)
"""Names that stand for no artist, in lower case."""

GENERIC = frozenset(
    (*("friends", "others", "guests", "orchestra", "choir", "band", "company", "co", "co.", "sons", "family", "more"),)
)
"""Parts of band names that are not an artist's name, in lower case. As keys they would connect all bands that have
them."""

SPLITS = ("train", "valid", "test")
"""The splits by rank: a group is in the first one that any of its members is in."""


def split_names(text: str) -> list[str]:
    """Return the artists that a text names, by the rules above; an empty list if it names nobody."""
    names: list[str] = []
    for piece in _ALWAYS.split(text):
        piece = _closed(piece.strip())
        names += [piece] if "," in piece else _AMPERSAND.split(piece)
    names = [name.strip() for name in names]
    return [name for name in names if name and name.casefold() not in NOBODY]


def distinct(names: Iterable[str]) -> list[str]:
    """Return the names without repetitions, however they are spelled; the first spelling is kept."""
    return list({artist_key(name): name for name in reversed(list(names))}.values())[::-1]


def featured_names(title: str) -> list[str]:
    """Return the artists that a title names in brackets, as in `Song (feat. Somebody)`."""
    return [name for names in _FEATURED.findall(title) for name in split_names(names)]


@lru_cache(2**16)  # an artist has several tracks, and a run with new ones asks several times for each
def artist_key(name: str) -> str:
    """Return a form that is the same for all spellings of an artist's name. Case, Unicode form, `and` or `&`, and a
    leading `the` make no difference."""
    plain = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    return re.sub(r" and ", " & ", plain).removeprefix("the ") or plain


def group_keys(artists: Sequence[str], track_id: str) -> list[str]:
    """Return the keys that connect a track with others: its artists and the parts of their names. Without artists it
    has only a key of its own."""
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
    """Return the keys that connect a recording with those that it is a copy of. These need not exist any more: two
    copies of a recording that is gone stay together."""
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
    """Groups of tracks that are connected by keys (a union-find forest over the keys), and the split of each group.

    Args:
        valid, test: shares of the splits.
    """

    def __init__(self, valid: float, test: float) -> None:
        self._shares = (valid, test)
        self._parents: dict[str, str] = {}
        self._ranks: dict[str, int] = {}
        """The index in `SPLITS` of each group's split, by its root."""

    def connect(self, keys: Sequence[str], split: str | None) -> None:
        """Put all `keys` (`group_keys`, or anything else that must not be in two splits) into one group.

        Args:
            split: the split in which a track with these keys was before, None for a new one. The group moves to it if
                it is earlier in `SPLITS`.
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
            self._parents[key] = self._parents[parent]  # path halving: later look-ups take fewer steps
            key = self._parents[key]
        return key


def _closed(piece: str) -> str:
    """Return a piece without its last bracket, if that closes a bracket that was opened before the piece."""
    if piece.endswith((")", "]")) and not re.search(r"[(\[]", piece):
        return piece[:-1].rstrip()
    return piece
