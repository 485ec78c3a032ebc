"""Controls: sounds that the clips are compared with, each scored like a clip.

A score by itself means little, so these sounds are scored too:

- `raw`: held-out recordings of which the truth is known. Their scores show how reliable the detectors are.
- `codec`: the same recordings through the codec. Their scores are the most that a language model over its codes can
  reach.
- `untrained`: what a model with random weights makes of the same requests with the clips' seeds. Training must beat
  their scores. They are also stored as files, to be heard beside the clips.
- two experiments, which are made only on request because they need generation. One generates with a clip's own seed but
  another request's conditions; it is judged by the conditions that were given (`swap_followed`) and by those that were
  not (`swap_ignored`). The other uses other guidance coefficients (`guidance 2`).

All of these belong to a model and its recordings, not to single clips. They are made once for each model, in batches,
and kept.
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
    """Return what the controls depend on: requests, and the columns of recordings that are used. Generations and
    verdicts count only by their models, so that a new clip alone changes nothing."""
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
    """Score the recordings, and then the sounds that are generated for comparison.

    Raises:
        ValueError: the codec is not the one that made the codes.
        Stopped: the run was asked to stop.
    """
    from stages.evaluate.experiments import experiments, score_experiment
    from stages.evaluate.recordings import held_out_recordings, score_recordings

    request_of = {row["request_id"]: row for row in requests.to_pylist()}
    generation_of = {(row["request_id"], row["take"]): row for row in generations.to_pylist()}
    # If a take was generated again, the try that became the clip counts, with its seed.
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
