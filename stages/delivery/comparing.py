"""Comparing a delivered file with the clip that it was made from: its length, its level and its sound.

A lossy encoder changes every sample but keeps what is heard. So both sounds are brought to the same rate and aligned in
time. Lossy encoders keep the waveform below 4 kHz. There the difference must be much weaker than the clip in every half
second; if one of them has other sound, even for half a second, the difference is as strong as the clip.
"""

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soundfile

from stages.audio import resample
from stages.audio.loudness import measure_audio
from stages.audio.samples import Samples

COMPARED_RATE = 8_000
"""Sample rate at which waveforms are compared, Hz."""

LONGEST_SHIFT = 0.1
"""How much a file may be shifted, or be longer or shorter, s. Encoders pad to whole frames."""

LEVEL = 0.5
"""How much louder or softer a file may be, LU. A file that is turned down to keep a peak limit is softer by less."""

WINDOW = 0.5
"""Length of sound that is compared at once, s."""

LEAST_RATIO = 8.0
"""How far the difference must stay below the clip in each window, dB. In MP3 and Ogg files of 24 clips of the demo,
also at 44.1 kHz, it is at least 19 dB below. With 0.6 s of silence in them, or compared with another clip, it is at
most 2 dB below."""

FLOOR = -35.0
"""Level below which differences are not heard beside the clip, dB relative to its mean level. Without it, the slightest
difference in a rest would count."""


@dataclass(frozen=True)
class Likeness:
    """How similar a file is to a clip."""

    ratio: float
    """Level of the clip above that of the difference, in the half second where it is lowest, dB."""
    problems: tuple[str, ...]
    """The differences in words; empty if the file is a form of the clip."""


def form_of(data: bytes) -> str:
    """Return the encoding of a sound file as text, without its length: the part that a delivery may change.

    Raises:
        soundfile.LibsndfileError: `data` is not a sound file.
    """
    info = soundfile.info(io.BytesIO(data))
    return f"{info.format}, {info.subtype}, {info.samplerate:,} Hz"


def likeness(clip: bytes, other: bytes, loudness: float | None) -> Likeness:
    """Compare a file with a clip and return how similar they are.

    Args:
        loudness: loudness of the clip, LUFS; None if it has none.

    Raises:
        soundfile.LibsndfileError: one of the files cannot be decoded.
    """
    (ours, rate), (theirs, other_rate) = _decoded(clip), _decoded(other)
    problems = []
    if len(ours) != len(theirs):
        problems.append(f"it has {_channels(len(theirs))}, the clip {_channels(len(ours))}")
    seconds, other_seconds = ours.shape[1] / rate, theirs.shape[1] / other_rate
    if abs(seconds - other_seconds) > LONGEST_SHIFT:
        problems.append(f"it is {other_seconds:.2f} s long, the clip {seconds:.2f} s")
    level = measure_audio(theirs, other_rate).loudness
    if level is not None and loudness is not None and abs(level - loudness) > LEVEL:
        problems.append(f"it is at {level:.1f} LUFS, the clip at {loudness:.1f}")
    ratios = _ratios(*_aligned(ours.mean(0), resample(theirs, other_rate, rate).mean(0), rate), rate)
    worst = int(ratios.argmin()) if len(ratios) else 0
    least = float(ratios[worst]) if len(ratios) else 0.0
    if least < LEAST_RATIO:
        problems.append(f"it sounds different from {worst * WINDOW:.1f} s on")
    return Likeness(least, tuple(problems))


def _decoded(data: bytes) -> tuple[Samples, int]:
    """Return the samples [C, N] of a file, and its sample rate in Hz."""
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return np.ascontiguousarray(samples.T), rate


def _channels(count: int) -> str:
    return "1 channel" if count == 1 else f"{count} channels"


def _aligned(
    ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32], rate: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Shift the second of two sounds [N] to where it best matches the first, and cut or pad it to the same length."""
    reach = round(LONGEST_SHIFT * rate)
    length = 1 << (max(len(ours), len(theirs)) + reach).bit_length()
    products = np.fft.irfft(np.fft.rfft(ours, length).conj() * np.fft.rfft(theirs, length), length)
    shifts = np.arange(-reach, reach + 1)
    shift = int(shifts[products[shifts].argmax()])
    shifted = theirs[shift:] if shift >= 0 else np.concatenate([np.zeros(-shift, np.float32), theirs])
    shifted = shifted[: len(ours)]
    return ours, np.concatenate([shifted, np.zeros(len(ours) - len(shifted), np.float32)])


def _ratios(ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32], rate: int) -> npt.NDArray[np.float64]:
    """Return, for each window, the level of the first of two sounds [N] above that of their difference, dB."""
    both = resample(np.stack([ours, theirs]), rate, COMPARED_RATE).astype(np.float64)
    size = round(WINDOW * COMPARED_RATE)
    both = both[:, : both.shape[1] // size * size] if both.shape[1] >= size else both
    clip, other = both.reshape(2, -1, min(size, both.shape[1]) or 1)
    gain = float((clip * other).sum() / max((other * other).sum(), 1e-12))  # the level is compared separately
    floor = (clip**2).mean() * 10 ** (FLOOR / 10)
    powers, differences = (clip**2).mean(1), ((clip - gain * other) ** 2).mean(1)
    ratios: npt.NDArray[np.float64] = 10 * np.log10((powers + floor + 1e-12) / np.maximum(differences, 1e-12))
    return ratios
