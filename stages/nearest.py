"""Nearest tracks: for every clip the training recording that is most similar to it by CLAP, a check for copies.

All clips are compared with all tracks, and all again whenever a clip or a track is added, removed or changed.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int

import schemas
from schemas.tables import CLAP, NEAREST, SCORES, TRACKS
from stages.pipeline.contract import Context, ReduceResult

READS, STREAMS, OPTIONAL = (SCORES, TRACKS, CLAP), (CLAP,), (TRACKS, CLAP)
WRITES, VERSION = NEAREST, 1


class Config(schemas.Config):
    """No knobs: clips are embedded by `evaluate.clap`, and tracks by `clap.model`."""


@dataclass(frozen=True, eq=False)
class _Embedded:
    """Clips or tracks with the embeddings of their windows."""

    rows: pa.Table
    """Rows of the clips or tracks that have embeddings."""
    windows: Float[npt.NDArray[np.float32], "W E"]
    """Embeddings of their windows, one row's after another's, of unit length."""
    firsts: Int[npt.NDArray[np.int64], "rows"]
    """Position in `windows` of each row's first embedding."""

    @classmethod
    def of(cls, rows: pa.Table) -> "_Embedded":
        """Split rows from their column `embeddings`."""
        rows = rows.filter(pc.greater(pc.list_value_length(rows.column("embeddings")), 0))
        vectors = pc.list_flatten(rows.column("embeddings"))
        values = pc.list_flatten(vectors).to_numpy().astype(np.float32)
        windows = values.reshape(len(vectors), -1) if len(vectors) else np.zeros((0, 0), np.float32)
        windows /= np.linalg.norm(windows, axis=1, keepdims=True).clip(min=1e-12)
        counts = pc.list_value_length(rows.column("embeddings")).to_numpy()
        return cls(rows.drop_columns(["embeddings"]), windows, np.cumsum(counts, dtype=np.int64) - counts)


def reduce(config: Config, context: Context, scores: pa.Table, tracks: pa.Table) -> ReduceResult:
    """Find the nearest track of each clip: the one with the highest cosine between a window of the clip and a window of
    the track. If no track is embedded there are no rows. The tracks' embeddings are read one shard at a time.

    Raises:
        ValueError: clips and tracks were embedded by models of different widths.
    """
    clips = _Embedded.of(scores.select(["request_id", "take", "embeddings"]))
    trained_on = tracks.filter(pc.equal(tracks.column("split"), "train")).column("track_id")
    best = np.full(len(clips.firsts), -np.inf, np.float32)
    names: list[str | None] = [None] * len(clips.firsts)
    store, version = context.store, context.versions.get(CLAP.name, "")
    shards = store.shards(CLAP, version) if version and len(names) else []
    context.progress.start("nearest", len(shards), "shards")
    for shard in shards:
        context.check_stopped()
        rows = store.read(CLAP, version, [shard], ["track_id", "embeddings"])
        embedded = _Embedded.of(rows.filter(pc.is_in(rows.column("track_id"), trained_on)))
        _check_width(clips, embedded)
        track_windows = np.split(embedded.windows, embedded.firsts[1:])
        for track, windows in zip(embedded.rows.column("track_id").to_pylist(), track_windows, strict=False):
            similarity = np.maximum.reduceat((clips.windows @ windows.T).max(axis=1), clips.firsts)
            for number in np.flatnonzero(similarity >= best):
                # In a tie the first id wins, whatever the order of the shards.
                if similarity[number] > best[number] or track < (names[number] or ""):
                    best[number], names[number] = similarity[number], track
        context.progress.advance()
    matches = zip(clips.rows.to_pylist(), names, best.tolist(), strict=True)
    return ReduceResult(
        [
            row | {"nearest_track": track, "nearest_similarity": similarity}
            for row, track, similarity in matches
            if track is not None
        ]
    )


def _check_width(clips: _Embedded, tracks: _Embedded) -> None:
    """Raise ValueError unless the embeddings of clips and tracks have the same width."""
    widths = clips.windows.shape[1], tracks.windows.shape[1]
    if len(tracks.firsts) and widths[0] != widths[1]:
        raise ValueError(
            f"expected evaluate.clap to be the model of the table clap, with embeddings of {widths[1]} numbers, got "
            f"one with {widths[0]}"
        )
