"""Training a codec: an EnCodec (arXiv:2210.13438) learns from the corpus's own sound, from scratch, with or without
discriminators.

It is meant for corpora that no published codec fits, and for machines that cannot fetch one. The result is a folder
that transformers' `EncodecModel.from_pretrained` reads. Every draw is a function of the seed and the step, and the
state is saved every few steps. So a training that is killed and run again ends with the same weights; on the CPU they
are the same bit for bit. Training uses one process, and so one GPU: a codec is small beside a language model.
"""

from collections.abc import Callable

import pyarrow as pa

from schemas import WeightsRef
from schemas.tables import CHECKPOINTS, TRACKS
from schemas.weights import LocalWeights
from stages.pipeline.contract import Context, Dependencies, ReduceResult
from stages.train_codec.config import Config

READS, WRITES, VERSION = (TRACKS,), CHECKPOINTS, 5
KINDS = ("codec",)

__all__ = ["KINDS", "READS", "VERSION", "WRITES", "Config", "dependencies", "reduce"]


def dependencies(config: Config, weights: Callable[[WeightsRef], LocalWeights]) -> Dependencies:
    """Return what a checkpoint depends on: the configuration, and the ids and splits of the tracks. Ids stand for their
    sound; other columns of `tracks` do not matter."""
    return Dependencies(config, (), columns={TRACKS.name: ("track_id", "split")})


def reduce(config: Config, context: Context, tracks: pa.Table) -> ReduceResult:
    """Train, and return one row of `checkpoints`, together with the rows of `training`.

    Raises:
        ValueError: the corpus cannot be trained on (no recording is long and loud enough, has a high enough sample rate
            and can be read), the gradients stay not finite, or no weight moved.
        Stopped: the run was asked to stop; the state is saved.
    """
    from stages.train_codec.training import train_codec  # imports torch, which a plan does not need

    return train_codec(config, context, tracks)
