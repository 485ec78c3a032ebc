"""Originality: how much a clip has in common with what its model learned from, and with other clips.

Two measures complement each other. Equal codes in one run reveal a model that repeats what it read. Equal peaks of the
spectrum at one distance in time (`stages.analysis.copies`) reveal a copy by other codes, or at a slightly different
speed. What held-out recordings have in common with the same recordings shows how much is chance. A clip that has more
in common is too near: it stays in its table, with the reasons in the rows of this stage, and the view `clips` leaves it
out.

If a clip continues a prompt, only the generated part is compared. If a recording's melody was asked for, only its codes
count, because its notes were wanted. If a model comes from elsewhere, what it learned from is not known, and its clips
are compared only with each other.
"""

from collections.abc import Callable

import pyarrow as pa

from schemas import WeightsRef
from schemas.tables import CHECKPOINTS, CLIPS, GENERATIONS, LEARNED, ORIGINALITY, REQUESTS, TOKENS, TRACKS, VERDICTS
from schemas.weights import LocalWeights
from stages.originality.config import Config
from stages.pipeline.contract import Context, Dependencies, ReduceResult

__all__ = ["OPTIONAL", "READS", "STREAMS", "VERSION", "WRITES", "Config", "dependencies", "reduce"]

READS = (CLIPS, VERDICTS, GENERATIONS, REQUESTS, TRACKS, TOKENS, CHECKPOINTS, LEARNED)
STREAMS, OPTIONAL = (TRACKS, TOKENS, CHECKPOINTS, LEARNED), (TRACKS, TOKENS)
WRITES, VERSION = ORIGINALITY, 4


def dependencies(config: Config, weights: Callable[[WeightsRef], LocalWeights]) -> Dependencies:
    """Return what the rows depend on: of tracks only their ids and splits, so that changed metadata recomputes
    nothing."""
    columns = {
        TRACKS.name: ("track_id", "split"),
        REQUESTS.name: ("request_id", "melody", "prompt", "clap"),
        CLIPS.name: ("request_id", "take", "sha256", "checkpoint_id", "reasons"),
        CHECKPOINTS.name: ("checkpoint_id",),
        LEARNED.name: ("training_set", "track_id"),
    }
    return Dependencies(config, (), columns=columns)


def reduce(
    config: Config, context: Context, clips: pa.Table, verdicts: pa.Table, generations: pa.Table, requests: pa.Table
) -> ReduceResult:
    """Compare every clip that passed the gate with the recordings its model learned from, and with the other clips.

    Raises:
        Stopped: the run was asked to stop.
    """
    from stages.originality.judging import judge
    from stages.originality.subjects import clip_subjects, held_out_subjects

    compared, rejects = clip_subjects(context, clips, verdicts, generations, requests)
    held_out = held_out_subjects(config, context, compared)
    return ReduceResult(judge(config, context, compared, held_out), rejects=rejects)
