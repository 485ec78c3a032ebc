"""The loops that ingest is compared with: `python -m tests.benchmarks.bare_loop PROCESSES [columns]`, paths on the
standard input.

Each file is read and hashed (SHA-256), decoded by libsndfile to float32, and resampled by soxr's high quality to 32
kHz. With `columns` it is not resampled; instead the loop computes the columns of ingest with the usual packages:
loudness by pyloudnorm, true peak by soxr at four times the rate, shares of silence and clipping by NumPy, and for
near-duplicates the peaks of a spectrogram at 8 kHz by scipy. Either loop prints the total number of samples a channel.
Only what is needed is imported, so that it starts as fast as such a loop can.
"""

import hashlib
import io
import multiprocessing
import sys
from pathlib import Path

import numpy as np
import soundfile
import soxr

RATE = 32_000
"""Sample rate of MusicGen's codec, Hz."""

PRINT_RATE, WINDOW, HOP = 8_000, 1024, 256
"""Sample rate in Hz, and window and hop in samples, of the spectrogram whose peaks identify copies."""


def read(path: str) -> tuple[np.ndarray, int]:
    """Hash and decode a file; return samples [N, C] and their rate."""
    data = Path(path).read_bytes()
    hashlib.sha256(data).hexdigest()
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return samples, rate


def resampled(path: str) -> int:
    """Decode a file and resample it; return its samples a channel."""
    samples, rate = read(path)
    soxr.resample(samples, rate, RATE, quality="HQ")
    return len(samples)


def measured(path: str) -> int:
    """Decode a file and measure it; return its samples a channel."""
    import pyloudnorm

    samples, rate = read(path)
    pyloudnorm.Meter(rate).integrated_loudness(samples)
    np.abs(soxr.resample(samples, rate, 4 * rate, quality="HQ")).max()
    windows = samples[: len(samples) // (rate // 20) * (rate // 20)].reshape(-1, rate // 20, samples.shape[1])
    (np.square(windows).mean(axis=1).max(axis=1) < 1e-6).mean()
    (np.abs(samples) >= 32_767 / 32_768).mean()
    peaks(soxr.resample(samples.mean(axis=1), rate, PRINT_RATE, quality="MQ"))
    return len(samples)


def peaks(mono: np.ndarray) -> np.ndarray:
    """Places where a spectrogram is loudest within 0.19 s and 94 Hz [P, 2]."""
    from scipy.fft import rfft
    from scipy.ndimage import maximum_filter

    frames = np.lib.stride_tricks.sliding_window_view(np.pad(mono, (WINDOW // 2, WINDOW)), WINDOW)[::HOP]
    spectra = np.abs(rfft(frames * np.hanning(WINDOW).astype(np.float32)))
    return np.argwhere((spectra == maximum_filter(spectra, (13, 25))) & (spectra > 1e-3 * spectra.max()))


if __name__ == "__main__":
    work = measured if sys.argv[2:] == ["columns"] else resampled
    with multiprocessing.get_context("fork").Pool(int(sys.argv[1])) as pool:
        print(sum(pool.imap_unordered(work, sys.stdin.read().splitlines())))
