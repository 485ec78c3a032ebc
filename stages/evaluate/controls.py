"""Controls: sounds that the clips are compared with, each scored like a clip.

A score means little alone. What a detector hears of a held-out recording that is known (`raw`) says how far it is to be
believed; the same through the codec (`codec`) is the most that a language model over its codes can reach; what a model
of random weights makes of the same requests, with the seeds of their clips (`untrained`), is what the training must
beat. Two experiments are made where they are asked for, as they cost generation: another request's conditions with a
clip's own seed, judged by what was told (`swap_followed`) and by what was not (`swap_ignored`), and other coefficients
of guidance (`guidance 2`).

What a model of random weights makes is kept as files too, to be heard beside the clips.

All of it is of a model and its recordings, not of single clips: it is made once for each, in batches, and kept.
"""

from collections.abc import Callable

import pyarrow as pa

from schemas import WeightsRef
from schemas.tables import CHROMA, CONTROLS, GENERATIONS, PIECES, REQUESTS, TOKENS, TRACKS, VERDICTS
from schemas.weights import LocalWeights
from stages.evaluate.control_config import Config
from stages.judging.tries import chosen_try
from stages.pipeline.contract import Context, Dependencies, ReduceResult

__all__ = ["OPTIONAL", "READS", "STREAMS", "VERSION", "WRITES", "Config", "dependencies", "reduce"]

READS, STREAMS = (GENERATIONS, VERDICTS, REQUESTS, TRACKS, PIECES, TOKENS, CHROMA), (TOKENS, CHROMA)
OPTIONAL, WRITES, VERSION = (TRACKS, PIECES, TOKENS, CHROMA), CONTROLS, 5


def dependencies(config: Config, weights: Callable[[WeightsRef], LocalWeights]) -> Dependencies:
    """Tell new and changed requests and recordings by what is read of them; a new clip alone is none."""
    columns: dict[str, tuple[str, ...]] = {table.name: ("checkpoint_id",) for table in (GENERATIONS, VERDICTS)}
    columns |= {TRACKS.name: ("track_id", "key", "bpm", "instrument", "split")}
    return Dependencies(config, (), columns=columns)


def reduce(
    config: Config,
    context: Context,
    generations: pa.Table,
    verdicts: pa.Table,
    requests: pa.Table,
    tracks: pa.Table,
    pieces: pa.Table,
) -> ReduceResult:
    """Score the recordings, then what is generated for the sake of comparison.

    Raises:
        ValueError: the codec is not the one that the codes belong to.
        Stopped: the run was asked to stop.
    """
    from stages.evaluate.experiments import experiments, score_experiment
    from stages.evaluate.recordings import held_out_recordings, score_recordings

    request_of = {row["request_id"]: row for row in requests.to_pylist()}
    generation_of = {(row["request_id"], row["take"]): row for row in generations.to_pylist()}
    # Of a take that was made again the try that became the clip is compared, by its seed.
    rows = [
        chosen_try(row, generation_of[row["request_id"], row["take"]])
        for row in verdicts.to_pylist()
        if row["request_id"] in request_of
    ]
    chosen = held_out_recordings(config.recordings, requests, tracks, pieces)
    planned = list(experiments(config, context, rows, request_of))
    context.progress.start("controls", len(chosen) + sum(len(each.trials) for each in planned), "sounds")
    scored, rejects = score_recordings(context, config.codec, chosen, rows)
    for experiment in planned:
        scored += score_experiment(context, config.codec, experiment)
    return ReduceResult(scored, rejects=rejects)
