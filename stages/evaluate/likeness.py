"""Likeness in CLAP's space: of a clip to its words, and to the nearest recording that the model learned from.

The first is MusicGen's text relevance (arXiv:2306.05284, section 4, "CLAP score"); the second a check for copies.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from jaxtyping import Float

from schemas import WeightsRef
from schemas.tables import CLAP, TRACKS, Row
from stages.audio import DecodedAudio
from stages.networks.clap import load_joint_embedder
from stages.pipeline.contract import Context

Windows = Float[npt.NDArray[np.float32], "W E"]
"""The embeddings of a clip's windows, each of unit length."""

HOP_SECONDS = 10.0
"""From one window of a clip to the next: side by side."""


@dataclass(frozen=True)
class _NearestTrack:
    """A track, and its cosine; no track while there is none."""

    track_id: str | None
    similarity: float


class Likeness:
    """Compares clips with words and with the tracks of the training split.

    Args:
        clap: the CLAP model that made the store's embeddings.
        vocabulary: RoBERTa's `tokenizer.json`, for the words of a LAION checkpoint.
    """

    def __init__(self, context: Context, clap: WeightsRef, vocabulary: WeightsRef | None) -> None:
        words = context.weights(vocabulary).path if vocabulary else None
        self.context, self.clap = context, clap
        self.embedder = load_joint_embedder(context.weights(clap).path, context.device, words)
        tracks = context.rows(TRACKS, ["track_id", "split"])
        self._trained_on = tracks.filter(pc.equal(tracks.column("split"), "train")).column("track_id")

    def embed(self, recording: DecodedAudio) -> Windows:
        """Embed a clip's windows, each of unit length."""
        return self.embedder.embed_audio(recording.samples, recording.sample_rate, HOP_SECONDS).embeddings

    def scores(self, clips: list[Windows], descriptions: list[str | None]) -> list[Row]:
        """Return `clap_similarity`, `nearest_track` and `nearest_similarity` of embedded clips, those that there are.

        A clip's similarity to its words is the mean over its windows; to a track, that of the closest two windows.

        Raises:
            ValueError: the store's embeddings have another width than the model's.
        """
        scores: list[Row] = [{} for _ in clips]
        if self.embedder.text is not None:
            for row, windows, words in zip(scores, clips, descriptions, strict=True):
                if words:
                    row["clap_similarity"] = float((windows @ self.embedder.embed_text([words])[0]).mean())
        for row, nearest in zip(scores, self._nearest(clips), strict=True):
            if nearest.track_id is not None:
                row |= {"nearest_track": nearest.track_id, "nearest_similarity": nearest.similarity}
        return scores

    def _nearest(self, clips: list[Windows]) -> "list[_NearestTrack]":
        """Find the nearest track of each clip, and how near; the store's embeddings are read a shard at a time."""
        best: list[_NearestTrack] = [_NearestTrack(None, -np.inf)] * len(clips)
        store, version = self.context.store, self.context.versions.get(CLAP.name)  # none where no stage makes it
        if version is None:
            return best
        for shard in store.shards(CLAP, version) if clips else []:
            rows = store.read(CLAP, version, [shard], ["track_id", "embeddings"])
            rows = rows.filter(pc.is_in(rows.column("track_id"), self._trained_on))
            for row in rows.to_pylist():
                windows = np.array(row["embeddings"], dtype=np.float32)
                if not len(windows):
                    continue
                if windows.shape[1] != clips[0].shape[1]:
                    raise ValueError(
                        f"expected evaluate.clap = {self.clap} to be the model of the table clap, whose embeddings "
                        f"have {windows.shape[1]} numbers, got one with {clips[0].shape[1]}"
                    )
                windows /= np.linalg.norm(windows, axis=1, keepdims=True).clip(min=1e-12)
                for number, clip in enumerate(clips):
                    similarity = float((clip @ windows.T).max())
                    # At a tie the first id wins, whatever the order of the shards.
                    if (-similarity, row["track_id"]) < (-best[number].similarity, best[number].track_id or ""):
                        best[number] = _NearestTrack(row["track_id"], similarity)
        return best
