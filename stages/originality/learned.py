"""Which recordings models learned from: clips are compared only with those of their own model."""

from collections.abc import Iterable

import pyarrow.compute as pc

from schemas.tables import CHECKPOINTS, LEARNED
from stages.pipeline.contract import Context

LANGUAGE_MODEL = "language_model"


def learned_by(context: Context, checkpoint_ids: Iterable[str]) -> dict[str, frozenset[str]]:
    """Return for each language model the ids of the recordings that it, or a model that it was started from, learned
    from. The set is empty for a model from elsewhere, because what it learned from is not known."""
    columns = ["checkpoint_id", "kind", "parents", "training_set"]
    rows = {row["checkpoint_id"]: row for row in context.store.read_all(CHECKPOINTS, columns).to_pylist()}
    sets: dict[str, frozenset[str]] = {}
    learned = {}
    for checkpoint_id in sorted(set(checkpoint_ids)):
        seen, waiting, tracks = set[str](), [checkpoint_id], set[str]()
        while waiting:
            row = rows.get(waiting.pop())
            if row is None or row["checkpoint_id"] in seen or row["kind"] != LANGUAGE_MODEL:
                continue
            seen.add(row["checkpoint_id"])
            waiting += row["parents"] or ()
            if (name := row["training_set"]) is not None:
                if name not in sets:
                    sets[name] = _tracks_of(context, name)
                tracks |= sets[name]
        learned[checkpoint_id] = frozenset(tracks)
    return learned


def _tracks_of(context: Context, training_set: str) -> frozenset[str]:
    rows = context.store.read(LEARNED, "1", [training_set], ["track_id"])
    return frozenset(pc.unique(rows.column("track_id")).to_pylist())
