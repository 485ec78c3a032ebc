"""Short-time spectra of a mono signal, in numpy, from which onsets and pitches are detected."""

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

Array = npt.NDArray[np.float32]
Array64 = npt.NDArray[np.float64]

SLOWEST_RATE = 8_000
"""Lowest sample rate, Hz; below it drums cannot be distinguished."""

FRAMES_AT_ONCE = 4096
"""Frames that are transformed together, which bounds the memory that is used."""


def checked(samples: Float[Array, " N"], sample_rate: int) -> Float[Array, " N"]:
    """Return mono samples as float32.

    Raises:
        ValueError: the samples are not a single channel [N], not finite, or below 8 kHz.
    """
    if samples.ndim != 1 or sample_rate < SLOWEST_RATE:
        raise ValueError(
            f"expected mono samples [N] at {SLOWEST_RATE} Hz or more, got {list(samples.shape)} at {sample_rate} Hz"
        )
    if not np.isfinite(samples).all():
        raise ValueError("expected finite samples, got NaN or infinity among them")
    return samples.astype(np.float32, copy=False)


def power_of_two(seconds: float, sample_rate: int) -> int:
    """Return the power of two that is nearest, on a logarithmic scale, to the number of samples in a duration."""
    return 1 << round(float(np.log2(seconds * sample_rate)))


def magnitudes(
    samples: Float[Array, " N"], sample_rate: int, window: int, frames_a_second: float, highest: float
) -> Float[Array, "F bins"]:
    """Compute the magnitude spectra of windows centred on moments that are 1 / `frames_a_second` apart. The first
    moment is 0, the last is at most the end of the signal. Samples beyond the ends are zero.

    Args:
        window: length of the Hann window in samples. The window's sum is 1, so a sinusoid of amplitude 1 has a
            magnitude of 0.5.
        highest: Hz; higher bins are left out.
    """
    from scipy.fft import rfft

    count = int(len(samples) * frames_a_second / sample_rate) + 1
    centres = np.round(np.arange(count) * sample_rate / frames_a_second).astype(np.int64)
    hann = np.hanning(window + 1)[:-1].astype(np.float32)
    hann /= hann.sum()
    padded = np.pad(samples, (window // 2, window))
    windows = np.lib.stride_tricks.sliding_window_view(padded, window)
    bins = min(int(highest * window / sample_rate) + 2, window // 2 + 1)
    spectra = [
        np.abs(rfft(windows[centres[first : first + FRAMES_AT_ONCE]] * hann)[:, :bins])
        for first in range(0, count, FRAMES_AT_ONCE)
    ]
    return np.concatenate(spectra)
