"""Originality: how much a clip has in common with what its model learned from, and with other clips.

Two measures, each blind where the other sees: equal codes in one run (a model that repeats what it read), and equal
peaks of the spectrum at one distance in time (`stages.analysis.copies`: a copy by other codes, or a bit faster). What
held-out recordings have in common with the same recordings says how much is chance. A clip that has more is too near:
it stays in its table, with its reasons here, and the view `clips` leaves it out.

Of a clip that continues a prompt, only what was generated is compared. A recording whose melody was asked for counts
with its codes alone, for its notes were wanted. Where a model comes from elsewhere, what it learned from is not known,
and clips are compared with each other.
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
    """Tell recordings by their ids and splits: what is said of them has no say here."""
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
    """Compare every clip that nothing else is held against with the recordings its model learned from, and with the
    clips before it.

    Raises:
        Stopped: the run was asked to stop.
    """
    from stages.originality.judging import judge
    from stages.originality.subjects import clip_subjects, held_out_subjects

    heard, rejects = clip_subjects(context, clips, verdicts, generations, requests)
    held_out = held_out_subjects(config, context, heard)
    return ReduceResult(judge(config, context, heard, held_out), rejects=rejects)
