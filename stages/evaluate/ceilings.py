"""The ceiling of a clip's melody following: the score of its reference recording through the codec, which no clip can
be expected to exceed."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from model.conditioning.config import ChromaConfig
from schemas import WeightsRef
from schemas.tables import TOKENS, Row
from stages.audio.references import Reference, rows_of_tracks
from stages.checkpoints.codecs import CodesFormat, borrow_codecs_of_rows
from stages.judging.melody import Melody
from stages.pipeline.contract import Context


class Ceilings:
    """Measures the ceilings of clips that follow a melody.

    Args:
        codec_reference: the codec of the clips' codes.
        generations: rows of those clips.
        request_of: rows of `requests` by id.

    Raises:
        ValueError: the codec is not the one that made the generations' codes.
    """

    def __init__(
        self,
        context: Context,
        codec_reference: WeightsRef,
        generations: Sequence[Row],
        request_of: Mapping[str, Row],
    ) -> None:
        self._codecs = {}
        if generations:
            self._codecs = borrow_codecs_of_rows(generations, codec_reference, context, "evaluate.codec")
        self._track_of = {row["request_id"]: _melody_track(request_of[row["request_id"]]) for row in generations}
        tracks = {track for track in self._track_of.values() if track}
        self._tokens = rows_of_tracks(context.store, context.versions, TOKENS, tracks)

    def of(self, generation: Row, melody: Melody, analysis: ChromaConfig) -> float | None:
        """Return the chroma similarity of the melody and its own track through the codec. None if the melody is not a
        track's, or the model uses other codes than the store's tokens."""
        reference = self._tokens.get(self._track_of[generation["request_id"]] or "")
        if reference is None or CodesFormat.from_row(reference) != CodesFormat.from_row(generation):
            return None
        codes = torch.tensor(np.array(reference["codes"], dtype=np.int64)[:, : generation["frames"]])
        codec = self._codecs[CodesFormat.from_row(generation)]
        sound = codec.decode_track(codes).float().numpy()
        return melody.scores(sound, codec.sample_rate, analysis)["chroma_similarity"]


def _melody_track(request: Row) -> str | None:
    """Return the id of the track whose melody was asked for; None if none was, or it was a file's."""
    reference = Reference.from_row(request["melody"] or "")
    return reference.value if reference.kind == "track" else None
