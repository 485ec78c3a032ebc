"""Recordings in and out: what every stage that touches sound files shares. Samples are float32 [C, N] throughout."""

from stages.audio.limiting import limit_true_peak, normalise_loudness
from stages.audio.locations import AudioError, locate, open_binary
from stages.audio.loudness import AudioMeasures, LoudnessMeter, measure_audio
from stages.audio.reading import AudioStream, Recording, convert_audio, open_audio, read_audio, resample, to_mono
from stages.audio.writing import AudioFormat, encode_audio

__all__ = [
    "AudioError",
    "AudioFormat",
    "AudioMeasures",
    "AudioStream",
    "LoudnessMeter",
    "Recording",
    "convert_audio",
    "encode_audio",
    "limit_true_peak",
    "locate",
    "measure_audio",
    "normalise_loudness",
    "open_audio",
    "open_binary",
    "read_audio",
    "resample",
    "to_mono",
]
