"""Rows of the table `checkpoints`: what every training records of the model that it wrote. Loads no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from stages.checkpoints.provenance import parents_of, record_learned
from stages.pipeline.contract import Context


@dataclass(frozen=True)
class TrainingSummary:
    """What a training took, and how good its model is."""

    steps: int
    parameters: int
    """Number of weights that were trained; all weights for a model that was not trained here."""
    rows_seen: int
    """Number of tracks, or demo pieces, that were learned from."""
    metrics: Mapping[str, float]


def model_folder(checkpoint_id: str) -> str:
    """Return the path in the store of a trained model's folder."""
    return f"models/{checkpoint_id}"


def checkpoint_row(
    context: Context,
    checkpoint_id: str,
    kind: str,
    digest: str,
    summary: TrainingSummary,
    parents: Sequence[str] = (),
    learned: pa.Table | None = None,
    adapter: str | None = None,
) -> dict[str, Any]:
    """Return the row of a model that lies in its `model_folder`, and record which recordings it learned from.

    Args:
        digest: digest of the folder (`schemas.weights.folder_digest`).
        parents: ids of the checkpoints that training began with; the other models that the run read or used are added.
        learned: the recordings that the model learned from (`tracks_to_learn`); None where it learned from none of the
            store's.
        adapter: the name by which requests call its low-rank updates; None where they are not all that it learned.
    """
    return {
        "checkpoint_id": checkpoint_id,
        "kind": kind,
        "path": model_folder(checkpoint_id),
        "recipe": context.fingerprint,
        "parents": parents_of(context, parents),
        "data_digest": context.data_digest,
        "training_set": None if learned is None else record_learned(context, learned),
        "rows_seen": summary.rows_seen,
        "steps": summary.steps,
        "parameters": summary.parameters,
        "digest": digest,
        "adapter": adapter,
        "metrics": list(summary.metrics.items()),
        "created_at": datetime.now(UTC),
    }
