"""Noise at the end: whether a clip ends in a hiss or a burst unlike anything before it.

Spectral flatness, the geometric over the arithmetic mean of a power spectrum (J. D. Johnston, IEEE JSAC 1988, 6(2)), is
1 for white noise and near 0 for tones. Cymbals and snares are flat too, so the end is compared with the flattest moment
before it, not only with a fixed number.
"""

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

LAST = 1.0
"""Seconds at the end that are compared with what came before."""

MOMENT, HOP = 0.5, 0.25
"""Length of the moments whose flatness is measured, s, and the time from one to the next, s."""

QUIETEST = -30.0
"""Lowest level of a moment, dB relative to the whole sound, at which it counts: the noise of codecs stays in a
fade-out."""

FRAME = 0.032
"""Length of the frames, s, whose power spectra are averaged over a moment."""

LOWEST_HERTZ = 100.0
"""Lowest frequency that counts in the flatness, Hz."""


def end_noise(mono: Float[npt.NDArray[np.float32], "N"], sample_rate: int) -> float | None:
    """Return by how much the flattest moment of the last second is flatter than all moments before it, from -1 to 1.
    None if nothing sounds before it, or the last second is far quieter than the whole."""
    moments, hop = round(MOMENT * sample_rate), round(HOP * sample_rate)
    ends = np.arange(len(mono), moments - 1, -hop)  # counted from the end, so that the last moment is whole
    if len(mono) < (LAST + MOMENT) * sample_rate:
        return None
    energy = np.concatenate([[0.0], np.cumsum(mono.astype(np.float64) ** 2)])
    power = (energy[ends] - energy[ends - moments]) / moments
    loud = power > max(energy[-1] / len(mono) * 10 ** (QUIETEST / 10), 1e-12)
    last = ends - moments >= len(mono) - LAST * sample_rate - 1
    before = ends <= len(mono) - LAST * sample_rate + 1
    if not (loud & last).any() or not (loud & before).any():
        return None
    flat = {int(end): _flatness(mono[end - moments : end], sample_rate) for end in ends[loud & (last | before)]}
    at_end, earlier = ([flat[int(end)] for end in ends[loud & part]] for part in (last, before))
    return max(at_end) - max(earlier)


def _flatness(moment: Float[npt.NDArray[np.float32], "n"], sample_rate: int) -> float:
    """Return the spectral flatness of a moment above `LOWEST_HERTZ`, 0 to 1; 0 for silence."""
    size = 1 << round(sample_rate * FRAME).bit_length() - 1
    frames = np.lib.stride_tricks.sliding_window_view(moment, size)[:: size // 2] * np.hanning(size)
    spectrum = (np.abs(np.fft.rfft(frames, axis=1)) ** 2).mean(axis=0)
    audible = spectrum[np.fft.rfftfreq(size, 1 / sample_rate) >= LOWEST_HERTZ]
    mean = float(audible.mean())
    return float(np.exp(np.log(np.maximum(audible, mean * 1e-9)).mean()) / mean) if mean > 0 else 0.0
