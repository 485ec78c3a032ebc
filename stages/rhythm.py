"""Rhythm: the beats and bars of a track, from which the model's condition `beat` is made (MusiConGen,
arXiv:2407.15060).

They are detected in the full mix, because drums and bass help. The tempo in a track's metadata is used as a hint, with
the value that it has when the row is made. A track without a recurring beat has a row without beats, which tells a
model that the track has none.
"""

from collections.abc import Iterator

import pyarrow as pa
from pydantic import Field

import schemas
from schemas.tables import RHYTHM, TRACKS, Row
from stages.analysis import Rhythm, find_rhythm
from stages.audio.mapping import map_recordings
from stages.audio.prefetching import PrefetchItem
from stages.audio.reading import Waveform
from stages.pipeline.contract import Context, Shard

READS, WRITES, VERSION = (TRACKS,), RHYTHM, 1


class Config(schemas.Config):
    """How beats are detected."""

    sample_rate: int = Field(16_000, ge=8_000)
    """Sample rate at which a track is read, Hz: the onsets of drums and notes are below 8 kHz."""
    hint: bool = True
    """Whether the tempo in a track's metadata is used as a hint: it decides between a tempo and its double. Without it
    the demo's tempi are right in seven of ten pieces, with it in all."""


def shard(config: Config, context: Context, tracks: pa.Table) -> Iterator[Shard]:
    """Detect the beats of a shard's tracks, one by one. A silent track is refused."""
    tempi = {row["track_id"]: row["bpm"] for row in tracks.select(["track_id", "bpm"]).to_pylist() if config.hint}

    def row_of(item: PrefetchItem, waveform: Waveform) -> Row:
        hint = tempi.get(item.key)
        rhythm = find_rhythm(waveform.samples[0], waveform.sample_rate, hint if hint and hint > 0 else None)
        return _row(item.key, rhythm)

    yield from map_recordings(
        context, "rhythm", tracks, row_of, sample_rate=config.sample_rate, channels=1, sound_to="find beats in"
    )


def _row(track_id: str, rhythm: Rhythm) -> Row:
    return {
        "track_id": track_id,
        "beats": rhythm.beats.astype("float32"),
        "downbeats": rhythm.downbeats.astype("float32"),
        "beats_per_bar": rhythm.beats_per_bar,
        "bpm": rhythm.bpm,
        "confidence": rhythm.confidence,
    }
