"""Recordings in and out: what every stage that touches sound files shares. Samples are float32 [C, N] throughout."""

from stages.audio.places import AudioError, locate, open_binary
from stages.audio.reading import AudioStream, Recording, open_audio, read_audio, resample, to_mono

__all__ = [
    "AudioError",
    "AudioStream",
    "Recording",
    "locate",
    "open_audio",
    "open_binary",
    "read_audio",
    "resample",
    "to_mono",
]
