"""The rows that a page is made from: those rows of each table that belong to the current catalog."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from schemas.tables import (
    CHECKPOINTS,
    CLIPS,
    CONTROLS,
    GENERATIONS,
    NEAREST,
    ORIGINALITY,
    RECONSTRUCTIONS,
    REQUESTS,
    SCORES,
    TRACKS,
    VERDICTS,
    Row,
)
from schemas.tables.catalog import clips_shown
from stages.report.codecs import newest_codec

Key = tuple[str, int]
"""A clip's request and take."""


@dataclass(frozen=True)
class CatalogRows:
    """Rows of the store's tables."""

    clips: Sequence[Row]
    """Clips whose requests are still in the order, without those that must not be shown."""
    verdicts: Sequence[Row]
    scores: Sequence[Row]
    """Rows of `scores`, with the nearest track of each clip and the score of an untrained model for its request."""
    requests: Sequence[Row]
    seeds: Mapping[Key, int]
    tracks: Mapping[str, Row]
    nearest: Mapping[Key, Row]
    originality: Sequence[Row]
    untrained: Mapping[Key, Row]
    """Rows of `controls` with the sounds of an untrained model for the clips' requests."""
    checkpoints: Sequence[Row]
    """The newest one first."""
    codec: Row | None
    """The newest codec that was trained here; None if there is none."""
    reconstructions: Sequence[Row]
    """The reconstructions of that codec."""

    @property
    def references(self) -> set[str]:
        """The recordings that clips refer to and those that are nearest to them, as references."""
        references = {row[name] for row in self.requests for name in ("melody", "prompt", "clap") if row[name]}
        return references | {f"track:{row['nearest_track']}" for row in self.nearest.values() if row["nearest_track"]}


def gather_rows(tables: Mapping[str, pa.Table]) -> CatalogRows:
    """Return the rows of the tables that belong to the catalog.

    Args:
        tables: whole tables by name.
    """
    requests, originality = tables[REQUESTS.name].to_pylist(), tables[ORIGINALITY.name].to_pylist()
    clips = tables[CLIPS.name].to_pylist()
    generations = tables[GENERATIONS.name].select(["request_id", "take", "seed"]).to_pylist()
    seeds = {_key(row): row["seed"] for row in generations}
    seeds |= {_key(row): row["seed"] for row in clips if row["seed"] is not None}
    request_ids = {row["request_id"] for row in requests}
    nearest = {_key(row): row for row in tables[NEAREST.name].to_pylist()}
    untrained = _untrained(tables[CONTROLS.name])
    checkpoints = sorted(tables[CHECKPOINTS.name].to_pylist(), key=lambda row: row["created_at"], reverse=True)
    codec = newest_codec(checkpoints)
    return CatalogRows(
        clips=[
            row for row in clips_shown(clips, originality) if row["request_id"] in request_ids and _key(row) in seeds
        ],
        verdicts=[row for row in tables[VERDICTS.name].to_pylist() if row["request_id"] in request_ids],
        scores=[
            row
            | {"chroma_similarity_untrained": untrained.get(_key(row), {}).get("chroma_similarity")}
            | nearest.get(_key(row), {})
            for row in tables[SCORES.name].drop_columns(["embeddings", "mel_statistics"]).to_pylist()
        ],
        requests=requests,
        seeds=seeds,
        tracks={row["track_id"]: row for row in tables[TRACKS.name].to_pylist()},
        nearest=nearest,
        originality=originality,
        untrained=untrained,
        checkpoints=checkpoints,
        codec=codec,
        reconstructions=[
            row
            for row in tables[RECONSTRUCTIONS.name].to_pylist()
            if codec is not None and row["checkpoint_id"] == codec["checkpoint_id"]
        ],
    )


def _key(row: Row) -> Key:
    return row["request_id"], row["take"]


def _untrained(controls: pa.Table) -> dict[Key, Row]:
    names = ["sounds", "item", "request_id", "take", "chroma_similarity", "path", "sha256"]
    return {_key(row): row for row in controls.select(names).to_pylist() if row["sounds"] == "untrained"}
