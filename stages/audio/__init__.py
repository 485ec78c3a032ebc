"""Recordings in and out: what every stage that touches sound files shares. Samples are float32 [C, N] throughout."""

from stages.audio.limiting import limit_true_peak, normalise_loudness
from stages.audio.loudness import Measures, Meter, measure
from stages.audio.places import AudioError, locate, open_binary
from stages.audio.reading import AudioStream, Recording, open_audio, read_audio, resample, to_mono
from stages.audio.sound import as_channels
from stages.audio.writing import AudioFormat, encode_audio

__all__ = [
    "AudioError",
    "AudioFormat",
    "AudioStream",
    "Measures",
    "Meter",
    "Recording",
    "as_channels",
    "encode_audio",
    "limit_true_peak",
    "locate",
    "measure",
    "normalise_loudness",
    "open_audio",
    "open_binary",
    "read_audio",
    "resample",
    "to_mono",
]
