"""The loop that ingest is held against: `python -m tests.benchmarks.bare_loop PROCESSES`, paths on the standard input.

Each file is read and hashed (SHA-256), decoded by libsndfile to float32, and resampled by soxr's high quality to 32
kHz. It prints how many samples a channel came of all. Nothing is imported but what that needs, so that it starts as
fast as such a loop can.
"""

import hashlib
import io
import multiprocessing
import sys
from pathlib import Path

import soundfile
import soxr

RATE = 32_000
"""Hz: that of MusicGen's codec."""


def work(path: str) -> int:
    """All that is done with one file; its samples a channel."""
    data = Path(path).read_bytes()
    hashlib.sha256(data).hexdigest()
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    soxr.resample(samples, rate, RATE, quality="HQ")
    return len(samples)


if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(int(sys.argv[1])) as pool:
        print(sum(pool.imap_unordered(work, sys.stdin.read().splitlines())))
