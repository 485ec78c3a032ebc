"""What a user of a store sees: the rows of the views, and the files that rows name."""

import hashlib
from pathlib import PurePosixPath

from schemas import Store
from schemas.queries.database import query
from schemas.tables import CHECKPOINTS, CLIPS, REPORTS, TABLES

WHEN_AND_WHERE = ("run_id", "shard")
"""Columns that say when and where a row was made; they depend on the history of the store."""
WHAT_HAPPENED = ("runs", "weights", "checks", "versions", "publications")
"""Tables that record the history of a store."""

Seen = dict[str, list[str]]
"""Rows and digests of files as text, by table or kind of file."""


def seen(store: Store) -> Seen:
    """Return what a user sees: every row of every view except those that record history, and every file that a row
    names, by its digest."""
    tables = [table for table in TABLES.values() if table.name not in WHAT_HAPPENED]
    parts = []
    for table in tables:
        names = ", ".join(f'"{name}"' for name in table.schema.names if name not in WHEN_AND_WHERE)
        parts.append(f"(SELECT list(r::VARCHAR ORDER BY r::VARCHAR) FROM (SELECT {names} FROM {table.name}) r)")
    paths = " UNION ALL ".join(f"SELECT path FROM {table.name}" for table in (CLIPS, REPORTS, CHECKPOINTS))
    parts.append(f"(SELECT list(path ORDER BY path) FROM ({paths}))")
    answer = query(store, f"SELECT {', '.join(parts)}").to_pylist()[0].values()
    *rows, named = (list(part or []) for part in answer)
    found = dict(zip([table.name for table in tables], rows, strict=True))
    return found | {"files": [f"{path} {_digest(store, path)}" for path in named]}


def _digest(store: Store, path: str) -> str:
    """Return the digest of a file, or of all files in a folder."""
    if PurePosixPath(path).suffix:
        return hashlib.sha256(store.read_bytes(path)).hexdigest()[:16]
    inside = [f"{path}/{name}" for name in store.files(path)]
    below = [_digest(store, f"{path}/{name}") for name in store.folders(path)]
    return hashlib.sha256(b"".join(map(store.read_bytes, inside)) + "".join(below).encode()).hexdigest()[:16]


def differences(one: Seen, other: Seen) -> list[str]:
    """Return what is in one and not in the other, a line each."""
    lines = []
    for name in sorted(one.keys() | other.keys()):
        ours, theirs = one.get(name, []), other.get(name, [])
        if ours != theirs:
            only = [f"+{row}" for row in ours if row not in theirs] + [f"-{row}" for row in theirs if row not in ours]
            lines += [f"{name}: {len(ours)} for {len(theirs)}", *(f"{name}: {row[:200]}" for row in only[:4])]
    return lines
