"""The sound of a clip by itself, whatever was asked: defects of the signal, and its spectrum.

A model may follow every condition and still make broken sound: constant offsets, holes of digital silence, a rumble
without pulse or pitch. Each of these is measured in the same way on clips, on recordings, and on recordings through the
codec, so that a clip's numbers can be compared with theirs.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from stages.audio.loudness import SILENCE_DBFS, SILENCE_WINDOW
from stages.audio.samples import INAUDIBLE
from stages.audio.spectrogram import log_spectrogram

MEL_BANDS = 8
"""Mel bands of the vector by which sets of sounds are compared. They are few, because a set needs several sounds for
each dimension."""


@dataclass(frozen=True)
class SoundFacts:
    """Measures of a sound, by the names of columns of `scores`."""

    dc: float
    """Absolute mean of the channel whose mean is furthest from zero, as a share of full scale, 0 or more."""
    zeros: float
    """Share of samples that are exactly zero, 0 to 1: digital silence."""
    head_silence: float
    """Seconds of silence at the beginning, in windows of 50 ms below -60 dBFS."""
    tail_silence: float
    """Seconds of silence at the end."""


def measure_sound(samples: Float[npt.NDArray[np.float32], "C N"], sample_rate: int) -> SoundFacts:
    """Return the measures of a sound.

    Raises:
        ValueError: there are no samples.
    """
    if not samples.size:
        raise ValueError("expected samples, got none")
    head, tail = _silent_ends(samples, sample_rate)
    return SoundFacts(
        dc=float(np.abs(samples.mean(axis=1, dtype=np.float64)).max()),
        zeros=float((samples == 0).mean()),
        head_silence=head,
        tail_silence=tail,
    )


def _silent_ends(samples: Float[npt.NDArray[np.float32], "C N"], sample_rate: int) -> tuple[float, float]:
    """Return the seconds of silence at the beginning and at the end; both are the whole duration if nothing sounds."""
    window = max(1, round(SILENCE_WINDOW * sample_rate))
    length = samples.shape[1]
    starts = np.arange(0, length, window)
    power = np.add.reduceat(samples.astype(np.float64) ** 2, starts, axis=1) / np.diff(np.append(starts, length))
    sounding = np.flatnonzero((power > 10 ** (SILENCE_DBFS / 10)).any(axis=0))
    if not len(sounding):
        return length / sample_rate, length / sample_rate
    end = min(length, (int(sounding[-1]) + 1) * window)
    return int(sounding[0]) * window / sample_rate, (length - end) / sample_rate


def spectral_centroid(samples: Float[npt.NDArray[np.float32], "C N"], sample_rate: int) -> float | None:
    """Return the centre of the mean magnitude spectrum of all channels together, Hz; None for silence. Loud frames
    count more than quiet ones."""
    mono = samples.mean(axis=0)
    if np.abs(mono).max() < INAUDIBLE:
        return None
    window = 1 << round(sample_rate * 0.064).bit_length() - 1
    padded = np.pad(mono, (0, max(0, window - len(mono))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[:: window // 2] * np.hanning(window)
    spectrum = np.abs(np.fft.rfft(frames, axis=1)).mean(axis=0)
    return float(spectrum @ np.fft.rfftfreq(window, 1 / sample_rate) / spectrum.sum())


def mel_statistics(mono: Float[Tensor, "N"], sample_rate: int) -> Float[npt.NDArray[np.float32], "16"]:
    """Return the mean and standard deviation over time of each mel band's level. Levels are in decibels below the
    sound's loudest point, so that sets of sounds do not differ by loudness alone.

    Raises:
        ValueError: there are no samples, or the sample rate is below 8 kHz.
    """
    decibels = log_spectrogram(mono, sample_rate, bands=MEL_BANDS, frames_a_second=25.0, window_seconds=0.064)
    return torch.cat([decibels.mean(dim=1), decibels.std(dim=1, correction=0)]).numpy().astype(np.float32)
