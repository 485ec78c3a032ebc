"""CLAP: joint audio-text embeddings of a track, one a window (arXiv:2211.06687; as a condition, arXiv:2306.05284,
2.2)."""

from collections.abc import Callable, Iterator

import pyarrow as pa
from pydantic import Field

import schemas
from schemas import WeightsRef
from schemas.tables import CLAP, TRACKS, Row
from schemas.weights import LocalWeights
from stages.audio.mapping import map_recordings
from stages.audio.prefetching import PrefetchItem
from stages.audio.reading import Waveform
from stages.networks.published import LAION_CLAP, ROBERTA_VOCABULARY
from stages.pipeline.contract import Context, Dependencies, Shard

READS, WRITES, VERSION = (TRACKS,), CLAP, 1


class Config(schemas.Config):
    """Which model embeds, and how often."""

    model: WeightsRef | None = LAION_CLAP
    """A LAION checkpoint (`.pt`, as in AudioCraft's `clap` conditioner) or a folder of `transformers.ClapModel`. In a
    recipe the stages train, generate and evaluate use it too, unless they name another. None makes no such table, for a
    language model that reads none."""
    vocabulary: WeightsRef | None = ROBERTA_VOCABULARY
    """RoBERTa's vocabulary, with which a LAION checkpoint reads words; a model folder has its own. This stage reads no
    words, but later stages do, which take it from here like `model`."""
    hop_seconds: float = Field(default=10.0, gt=0)
    """Seconds from one window to the next. The model's windows are 10 s long (arXiv:2211.06687, 3.3), so by default
    they do not overlap, except the last one, which ends with the track."""


def dependencies(config: Config, weights: Callable[[WeightsRef], LocalWeights]) -> Dependencies:
    """Return what the embeddings depend on: the model alone, as they are embeddings of sound and not of words."""
    return Dependencies(config.model_copy(update={"vocabulary": None}), ())


def shard(config: Config, context: Context, tracks: pa.Table) -> Iterator[Shard]:
    """Embed the tracks of one shard, a track at a time."""
    from stages.networks.clap import load_joint_embedder  # imports torch, which a plan does not need

    if config.model is None:
        raise ValueError("expected clap.model to embed recordings with, got none")
    folder = context.weights(config.model).path
    embedder = context.borrow("clap", lambda: load_joint_embedder(folder, context.device))

    def row_of(item: PrefetchItem, waveform: Waveform) -> Row:
        windows = embedder.embed_audio(waveform.samples, waveform.sample_rate, config.hop_seconds)
        return {"track_id": item.key, "starts": windows.starts, "embeddings": list(windows.embeddings)}

    yield from map_recordings(context, "clap", tracks, row_of, sample_rate=embedder.sample_rate, channels=1)
