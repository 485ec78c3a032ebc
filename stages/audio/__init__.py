"""Reading and writing sound files, for every stage that does so. Samples are float32 [C, N] throughout."""

from stages.audio.locations import AudioError, locate, open_binary
from stages.audio.loudness import (
    LISTENING_LOUDNESS,
    LISTENING_PEAK,
    AudioMeasures,
    LoudnessMeter,
    measure_audio,
    normalise_loudness,
)
from stages.audio.marks import SourceType
from stages.audio.reading import DecodedAudio, read_audio
from stages.audio.samples import Samples, convert_audio, resample, to_mono
from stages.audio.true_peak import limit_true_peak
from stages.audio.writing import AudioFormat, encode_audio

__all__ = [
    "LISTENING_LOUDNESS",
    "LISTENING_PEAK",
    "AudioError",
    "AudioFormat",
    "AudioMeasures",
    "DecodedAudio",
    "LoudnessMeter",
    "Samples",
    "SourceType",
    "convert_audio",
    "encode_audio",
    "limit_true_peak",
    "locate",
    "measure_audio",
    "normalise_loudness",
    "open_binary",
    "read_audio",
    "resample",
    "to_mono",
]
