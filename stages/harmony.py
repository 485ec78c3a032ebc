"""Harmony: the chords of a track from beat to beat and its key, from which the model's condition `chords` is made
(JASCO, arXiv:2406.10970, and MusiConGen, arXiv:2407.15060).

They are detected in the full mix, from the peaks of its spectra. On the demo's pieces the stems without drums give no
better chords (docs/analysis.md), and separating them takes far longer.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from pydantic import Field

import schemas
from schemas.tables import HARMONY, RHYTHM, TRACKS, Row
from stages.analysis import Harmony, find_harmony
from stages.audio.mapping import map_recordings
from stages.audio.prefetching import PrefetchItem
from stages.audio.reading import Waveform
from stages.pipeline.contract import Context, Shard

READS, WRITES, VERSION = (TRACKS, RHYTHM), HARMONY, 1


class Config(schemas.Config):
    """How chords are detected."""

    sample_rate: int = Field(16_000, ge=8_000)
    """Sample rate at which a track is read, Hz: all fundamentals and their first overtones are far below 8 kHz."""


def shard(config: Config, context: Context, tracks: pa.Table, rhythm: pa.Table) -> Iterator[Shard]:
    """Detect the chords and the key of a shard's tracks, one by one, with chord changes on the tracks' beats. A silent
    track is refused."""
    beats = {row["track_id"]: row for row in rhythm.select(["track_id", "beats", "downbeats"]).to_pylist()}

    def row_of(item: PrefetchItem, waveform: Waveform) -> Row:
        times = {name: np.array(beats.get(item.key, {}).get(name) or []) for name in ("beats", "downbeats")}
        harmony = find_harmony(waveform.samples[0], waveform.sample_rate, times["beats"], times["downbeats"])
        return _row(item.key, harmony)

    yield from map_recordings(
        context, "harmony", tracks, row_of, sample_rate=config.sample_rate, channels=1, sound_to="find chords in"
    )


def _row(track_id: str, harmony: Harmony) -> Row:
    return {
        "track_id": track_id,
        "chords": [vars(chord) for chord in harmony.chords],
        "key": harmony.key.name if harmony.key else None,
        "key_confidence": harmony.key.confidence if harmony.key else None,
    }
