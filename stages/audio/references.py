"""How a request names the sound or the words that it refers to.

```
track:9f86d081          a recording of the store, by its id, or by the beginning of its id if no other track has it
title:Silver Window     a recording of the store, by its exact title, or by `title:Artist/Title`
file:hum.wav            an audio file: a path relative to the requests file, an absolute path, or any fsspec URL
text:slow strings       words (for CLAP only); `text` alone takes the request's own description
```

The table `requests` holds references resolved: `track:` with the whole id, `file:` with the whole path, `text:` with
the words. Only paths in the operator's requests file are ever opened; no text in a track's metadata is.
"""

import hashlib
import os
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from schemas import Store
from schemas.tables import TRACKS, Row, Table

SHORTEST_PREFIX = 6
"""Fewest digits of a track's id that a reference may give; fewer would not stay unique as tracks are added."""


class UnknownReference(ValueError):
    """Raised if a reference is malformed, or names nothing, or names more than one thing."""


class RequestRefused(ValueError):
    """Raised if a request cannot be read or followed. `kind` is the reject's kind. `passing` is true if a recording
    could not be reached, so that the next run tries again."""

    def __init__(self, kind: str, message: str, passing: bool = False) -> None:
        super().__init__(message)
        self.kind, self.passing = kind, passing


@dataclass(frozen=True)
class Reference:
    """A resolved reference. `kind` is `track`, `file` or `text`; `value` is the id, the path or the words."""

    kind: str
    value: str

    @classmethod
    def from_row(cls, text: str) -> Self:
        """Parse a reference as the table `requests` holds it."""
        kind, _, value = text.partition(":")
        return cls(kind, value)

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}"


def parse_reference(text: str, kinds: tuple[str, ...]) -> Reference:
    """Parse a reference as people write it, without resolving it. Its kind must be one of `kinds`, a subset of `track`,
    `title`, `file` and `text`.

    Raises:
        UnknownReference: it does not have the form `kind:value` with one of the kinds.
    """
    kind, colon, value = text.partition(":")
    kind, value = kind.strip(), value.strip()
    if kind == "text" and "text" in kinds and not value:
        return Reference("text", "")
    if kind not in kinds or not colon or not value:
        forms = ", ".join(f"{kind}:…" for kind in kinds)
        raise UnknownReference(f"expected one of {forms}, got {text[:80]!r}")
    if kind == "file" and value.startswith("//"):  # file:///a/path, a URL whose protocol looks like the kind
        value = f"file:{value}"
    return Reference(kind, value)


@dataclass
class TrackNames:
    """Finds recordings of the store by the names that people use for them.

    Args:
        tracks: the columns `track_id`, `title`, `artist` of the table `tracks`.
    """

    tracks: pa.Table
    _ids: list[str] = field(init=False)
    _titles: Mapping[str, list[str]] = field(init=False)

    def __post_init__(self) -> None:
        self._ids = sorted(self.tracks.column("track_id").to_pylist())
        titles: dict[str, list[str]] = {}
        for row in self.tracks.to_pylist():
            if row["title"]:
                names = {row["title"], f"{row['artist']}/{row['title']}" if row["artist"] else row["title"]}
                for name in names:
                    titles.setdefault(name, []).append(row["track_id"])
        self._titles = titles

    def resolve(self, reference: Reference) -> Reference:
        """Return the `track:` reference with the whole id for a `track:` or `title:` reference.

        Raises:
            UnknownReference: no track, or more than one, has that name.
        """
        if reference.kind == "title":
            ids, name = sorted(self._titles.get(reference.value, [])), f"the title {reference.value!r}"
            advice = "write title:Artist/Title or track:<id>"
        else:
            ids, name = self._with_prefix(reference.value.lower()), f"an id that begins with {reference.value!r}"
            advice = "give more digits"
        if not ids:
            raise UnknownReference(f"expected a track with {name}, got none among the {len(self._ids)} tracks")
        if len(ids) > 1:
            examples = ", ".join(track[:12] for track in ids[:3])
            raise UnknownReference(f"expected one track with {name}, got {len(ids)} ({examples}…): {advice}")
        return Reference("track", ids[0])

    def _with_prefix(self, prefix: str) -> list[str]:
        if len(prefix) < SHORTEST_PREFIX:
            raise UnknownReference(f"expected at least {SHORTEST_PREFIX} digits of a track's id, got {prefix!r}")
        start = bisect_left(self._ids, prefix)
        end = next((i for i in range(start, len(self._ids)) if not self._ids[i].startswith(prefix)), len(self._ids))
        return self._ids[start:end]


def rows_of_tracks(store: Store, versions: Mapping[str, str], table: Table, ids: set[str]) -> dict[str, Row]:
    """Return the rows of some tracks, by id. Only the shards that hold them are read: shard n of a table holds the
    tracks of shard n of `tracks`.

    Args:
        versions: the version of each table, by name; a table without a version has no rows.
    """
    if not ids or table.name not in versions:
        return {}
    wanted = pa.array(sorted(ids))
    tracks = store.read(TRACKS, versions[TRACKS.name], columns=["track_id", "shard"])
    shards = pc.unique(tracks.filter(pc.is_in(tracks.column("track_id"), wanted)).column("shard")).to_pylist()
    rows = store.read(table, versions[table.name], [str(shard) for shard in sorted(shards)])
    return {row["track_id"]: row for row in rows.filter(pc.is_in(rows.column("track_id"), wanted)).to_pylist()}


@dataclass
class ReferencedFiles:
    """Resolves and hashes the audio files that a requests file refers to.

    Args:
        base: the folder (path or fsspec URL) that relative paths start from; None where there is none.
    """

    base: str | None
    _digests: dict[str, str] = field(default_factory=dict)

    def resolve(self, reference: Reference) -> Reference:
        """Return the `file:` reference with the whole path or URL.

        Raises:
            UnknownReference: the path is relative and there is no base folder.
        """
        path = reference.value
        if "://" in path or os.path.isabs(path):
            return reference
        if self.base is None:
            raise UnknownReference(f"expected an absolute path or URL, got {path!r}, relative without a requests file")
        return Reference("file", f"{self.base.rstrip('/')}/{path}")

    def digest(self, reference: Reference) -> str:
        """Return the SHA-256 of a file's content. So a request counts as new if the file that it refers to changed, but
        not if the file merely moved.

        Raises:
            UnknownReference: the file does not exist, or may not be read.
            OSError: the disk or the network failed, which does not mean that the file is gone.
        """
        from stages.audio import AudioError, open_binary

        if reference.value not in self._digests:
            digest = hashlib.sha256()
            try:
                with open_binary(reference.value) as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
            except (AudioError, ValueError, ImportError) as error:
                raise UnknownReference(str(error)) from error
            self._digests[reference.value] = digest.hexdigest()
        return self._digests[reference.value]
