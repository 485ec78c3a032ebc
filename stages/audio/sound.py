"""A recording as a model takes it: at the model's rate and in its channels. Light to import, as other processes do."""

from dataclasses import dataclass

import numpy as np

from stages.audio.places import AudioError
from stages.audio.reading import read_audio, resample, to_mono


@dataclass(frozen=True, eq=False)
class Sound:
    """A recording as a model takes it."""

    samples: np.ndarray
    """float32 [C, N]."""
    sample_rate: int
    """Hz."""
    seconds: float
    """How long the recording is."""
    peak: float
    """The largest magnitude of a sample of the recording."""


def as_channels(samples: np.ndarray, source_rate: int, sample_rate: int, channels: int) -> np.ndarray:
    """Samples [C, N] as a network of `channels` at `sample_rate` takes them: the mean of the channels for mono, else
    the first ones, and a single one so many times."""
    if channels == 1:
        samples = to_mono(samples)
    found = resample(samples[:channels], source_rate, sample_rate)
    return np.repeat(found, channels, axis=0) if found.shape[0] == 1 < channels else found


def read_sound(uri: str, sample_rate: int | None, channels: int | None) -> Sound | AudioError:
    """A recording at a rate (Hz) and number of channels, or as it is stored where these are None; or why it cannot be
    read.

    Raises:
        OSError: the disk or the network failed.
    """
    try:
        recording = read_audio(uri)
    except AudioError as error:
        return error
    peak = float(max(recording.samples.max(), -recording.samples.min()))
    rate = sample_rate or recording.sample_rate
    samples = as_channels(recording.samples, recording.sample_rate, rate, channels or recording.samples.shape[0])
    return Sound(samples, rate, recording.seconds, peak)
