"""Chroma: the strength of each pitch class in every frame, the melody condition of a track (MusicGen, arXiv:2306.05284,
2.2).

Rows hold the raw chroma (strongest bin 1): whoever trains decides whether only the strongest bin counts
(`model.chroma.one_hot`, which the published melody models do), so that this table serves both."""

import numpy as np
import pyarrow as pa
from pydantic import Field

import schemas
from schemas import WeightsRef
from schemas.tables import CHROMA, TRACKS
from stages.audio import AudioError, read_audio
from stages.audio.loudness import SILENCE_DBFS
from stages.contract import Context, Reject, Shard

READS, WRITES, VERSION = (TRACKS,), CHROMA, 1


class Config(schemas.Config):
    """Where the melody comes from and how it is measured."""

    separator: WeightsRef | None = WeightsRef("demucs:htdemucs")
    """What separates the stems: `demucs:<name>`, a Demucs repository, or `checkpoint:separator`; None takes the full
    mix."""
    sample_rate: int = Field(default=32_000, ge=8_000)
    """Rate at which the chroma is measured, Hz (AudioCraft's melody models)."""
    window: int = Field(default=16_384, ge=256)
    """STFT window, samples at `sample_rate` (arXiv:2306.05284, 4.1: 2^14)."""
    hop: int = Field(default=4_096, ge=64)
    """Samples at `sample_rate` from one frame to the next (arXiv:2306.05284, 4.1: 2^12)."""


def shard(config: Config, context: Context, tracks: pa.Table) -> Shard:
    """The chroma of the tracks of one shard. A silent track has no melody and is refused as such."""
    from stages.stems import ChromaSettings, load_separator, melody_chroma  # with torch, which a plan does without

    separator = load_separator(context.weights(config.separator), context.device) if config.separator else None
    settings = ChromaSettings(config.sample_rate, config.window, config.hop)
    rows, rejects = [], []
    context.progress.start("chroma", tracks.num_rows, "tracks")
    for track in tracks.select(["track_id", "uri"]).to_pylist():
        context.check_stopped()
        try:
            recording = read_audio(track["uri"])
        except AudioError as error:
            rejects.append(Reject(track["track_id"], track["uri"], error.kind, str(error)))
        else:
            peak = float(np.abs(recording.samples).max())
            if peak >= 10 ** (SILENCE_DBFS / 20):
                found = melody_chroma(recording.samples, recording.sample_rate, separator, settings, context.device)
                rows.append({"track_id": track["track_id"], "frame_rate": settings.frame_rate, "chroma": list(found)})
            else:
                message = f"expected sound to take a melody from, got silence: no sample reaches {SILENCE_DBFS:g} dBFS"
                rejects.append(Reject(track["track_id"], track["uri"], "silent", message))
        context.progress.advance()
    return Shard(rows, rejects)
