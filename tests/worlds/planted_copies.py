"""Copies of recordings, like those in collections and in the output of models."""

import io
from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import soundfile
import soxr

from stages.analysis.prints import SAMPLE_RATE, Print, take_print
from stages.demo.synthesis import compose
from stages.demo.synthesis.rendering import render

RATE = 16_000
Sound = np.ndarray


@lru_cache(maxsize=256)
def piece(index: int, seed: int = 0) -> Sound:
    """One of the demo's pieces, mono: they share genres, chords, tempi and instruments, and are not copies."""
    return render(compose(seed, index), RATE).sum(0).numpy()


def print_of(sound: Sound, rate: int = RATE) -> Print:
    return take_print(soxr.resample(sound, rate, SAMPLE_RATE).astype(np.float32))


def excerpt(sound: Sound, seconds: float, at: float) -> Sound:
    """An excerpt of `seconds`, from a place between the first (0) and the last possible (1)."""
    length = min(round(seconds * RATE), len(sound))
    start = round(at * (len(sound) - length))
    return sound[start : start + length]


def through(form: str, sound: Sound) -> Sound:
    """A sound after encoding in a lossy format at its encoder's second-lowest quality."""
    file = io.BytesIO()
    soundfile.write(file, sound, RATE, format=form, compression_level=0.9)
    file.seek(0)
    return soundfile.read(file, dtype="float32")[0]


def at_speed(sound: Sound, speed: float) -> Sound:
    return soxr.resample(sound, RATE, RATE / speed).astype(np.float32)


def mixed(sound: Sound, other: Sound, decibels: float = 0.0) -> Sound:
    """Two sounds at once, the other `decibels` below the first."""
    length = min(len(sound), len(other))
    sound, other = (part[:length] / max(part[:length].std(), 1e-9) for part in (sound, other))
    return (0.1 * (sound + 10 ** (-decibels / 20) * other)).astype(np.float32)


Plant = Callable[[Sound, Sound, float], Sound]
"""Makes a copy of a sound, with the help of another one, at a place between 0 and 1."""

PLANTS: Mapping[str, Plant] = {
    "exact, whole": lambda sound, other, at: sound,
    "10 s of it": lambda sound, other, at: excerpt(sound, 10, at),
    "shifted by part of a frame": lambda sound, other, at: sound[round(16 + at * 480) :],
    "1.7 s cut off its beginning": lambda sound, other, at: sound[round(1.7 * RATE) :],
    "as MP3": lambda sound, other, at: through("MP3", sound),
    "as Ogg Vorbis": lambda sound, other, at: through("OGG", sound),
    "3 dB quieter": lambda sound, other, at: (sound * 10 ** (-3 / 20)).astype(np.float32),
    "1 % faster": lambda sound, other, at: at_speed(sound, 1.01),
    "1 % slower": lambda sound, other, at: at_speed(sound, 0.99),
    "6 s of it, between others' 4 s": lambda sound, other, at: np.concatenate(
        [excerpt(other, 2, 0), excerpt(sound, 6, at), excerpt(other, 2, 1)]
    ),
    "6 s of it": lambda sound, other, at: excerpt(sound, 6, at),
    "another, 6 dB quieter, on top": lambda sound, other, at: mixed(excerpt(sound, 10, at), excerpt(other, 10, at), 6),
    "another, as loud, on top": lambda sound, other, at: mixed(excerpt(sound, 10, at), excerpt(other, 10, at)),
}
