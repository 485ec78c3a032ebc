"""Chroma: the strength of each pitch class in every frame, the melody condition of a track (MusicGen, arXiv:2306.05284,
2.2).

Rows hold the raw chroma, scaled so that the strongest bin is 1. Whether only the strongest bin counts is decided in
training (`model.chroma.one_hot`, as in the published melody models), so that this table serves both.
"""

from collections.abc import Iterator
from functools import partial

import pyarrow as pa

from model.conditioning.config import ChromaConfig
from schemas import WeightsRef
from schemas.tables import CHROMA, TRACKS, Row
from stages.audio.mapping import map_recordings
from stages.audio.prefetching import PrefetchItem
from stages.audio.reading import Waveform
from stages.networks.published import HTDEMUCS
from stages.pipeline.contract import Context, Shard

READS, WRITES, VERSION = (TRACKS,), CHROMA, 2


class Config(ChromaConfig):
    """Where the melody comes from and how it is measured. In a recipe `train.model.chroma.analysis` has the same
    values, unless it is given."""

    separator: WeightsRef | None = HTDEMUCS
    """The model that separates the stems: `demucs:<name>`, a Demucs repository, or `checkpoint:separator`; None takes
    the full mix. In a recipe the stage generate uses it too, unless it names another."""


def shard(config: Config, context: Context, tracks: pa.Table) -> Iterator[Shard]:
    """Measure the chroma of a shard's tracks, one by one. A silent track has no melody and is refused."""
    from stages.networks.demucs import Separator, load_separator, melody_chroma  # imports torch; plans do not

    def load(reference: WeightsRef) -> Separator:
        return load_separator(context.weights(reference), context.device)

    separator = context.borrow("separator", partial(load, config.separator)) if config.separator else None
    sample_rate, channels = (separator.sample_rate, separator.channels) if separator else (config.sample_rate, 1)

    def row_of(item: PrefetchItem, waveform: Waveform) -> Row:
        chroma = melody_chroma(waveform.samples, waveform.sample_rate, separator, config, context.device)
        return {"track_id": item.key, "frame_rate": config.frame_rate, "chroma": list(chroma)}

    yield from map_recordings(
        context, "chroma", tracks, row_of, sample_rate=sample_rate, channels=channels, sound_to="take a melody from"
    )
