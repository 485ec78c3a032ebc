"""Training a codec: an EnCodec (arXiv:2210.13438) learns from the corpus's own sound, from scratch, with or without
discriminators.

For corpora that no published codec fits, and for machines that cannot fetch one. The result is a folder that
transformers' `EncodecModel.from_pretrained` reads. Every draw is a function of the seed and the step, and the state is
kept every few steps: a training that was killed and run again ends with the same weights, on the CPU bit for bit. It
has one process, and so one GPU, however many there are: a codec is small beside a language model.
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
    """Leave out what is said of tracks: their sound, which their ids stand for, is all that is learned from."""
    return Dependencies(config, (), columns={TRACKS.name: ("track_id", "split")})


def reduce(config: Config, context: Context, tracks: pa.Table) -> ReduceResult:
    """Train, and give one row of `checkpoints` with the rows of `training` beside it.

    Raises:
        ValueError: the corpus cannot be trained on (nothing that is long and loud enough and of a high enough sample
            rate, or that can be read), the gradients stay not finite, or nothing moved.
        Stopped: the run was asked to stop; the state is kept.
    """
    from stages.train_codec.training import train_codec  # with torch, which a plan does without

    return train_codec(config, context, tracks)
