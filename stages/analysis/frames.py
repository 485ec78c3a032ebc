"""Short-time spectra of a mono signal, in numpy: what onsets and pitches are found in."""

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

Array = npt.NDArray[np.float32]
Array64 = npt.NDArray[np.float64]

INAUDIBLE = 1e-4
"""Peak (-80 dBFS) under which a signal is silence: what remains there are the roundings of decoders and resamplers."""

SLOWEST_RATE = 8_000
"""Hz; below it the drums cannot be told apart."""

FRAMES_AT_ONCE = 4096
"""Frames that are transformed together, for the sake of memory."""


def checked(samples: Float[Array, " N"], sample_rate: int) -> Float[Array, " N"]:
    """Return mono samples as float32.

    Raises:
        ValueError: they are not one channel of finite samples at 8 kHz or more.
    """
    if samples.ndim != 1 or sample_rate < SLOWEST_RATE:
        raise ValueError(
            f"expected mono samples [N] at {SLOWEST_RATE} Hz or more, got {list(samples.shape)} at {sample_rate} Hz"
        )
    if not np.isfinite(samples).all():
        raise ValueError("expected finite samples, got NaN or infinity among them")
    return samples.astype(np.float32, copy=False)


def power_of_two(seconds: float, sample_rate: int) -> int:
    """Return the number of samples nearest to a duration, by their logarithm, that is a power of two."""
    return 1 << round(float(np.log2(seconds * sample_rate)))


def magnitudes(
    samples: Float[Array, " N"], sample_rate: int, window: int, frames_a_second: float, highest: float
) -> Float[Array, "F bins"]:
    """Compute the magnitude spectra of windows around moments that are 1 / `frames_a_second` apart, the first at 0 and
    the last at the end of the signal or just before it. Beyond its ends is silence.

    Args:
        window: samples, under a Hann window whose sum is 1, so that a sinusoid of amplitude 1 has a magnitude of 0.5.
        highest: Hz; bins above are left out.
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
