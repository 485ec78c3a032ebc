"""A drum kit: each drum is one short sound, made once for a piece and placed at every stroke."""

import math

import numpy as np
from jaxtyping import Float32

from stages.demo.synthesis.score import Hit

DRUMS = ("kick", "snare", "clap", "hat", "shaker")
"""Names of the drums."""


def play_drums(
    hits: tuple[Hit, ...], samples: int, sample_rate: int, generator: np.random.Generator
) -> Float32[np.ndarray, " N"]:
    """The drum part of a piece, N samples at `sample_rate` Hz; `generator` is the source of the noise.

    Raises:
        ValueError: an unknown drum.
    """
    part = np.zeros(samples, np.float32)
    unknown = sorted({hit.drum for hit in hits} - set(DRUMS))
    if unknown:
        raise ValueError(f"expected drums out of {', '.join(DRUMS)}, got {', '.join(unknown)}")
    # Every drum is drawn, played or not, so that a change of pattern leaves the sound of the others alone.
    kit = {drum: _drum(drum, sample_rate, generator) for drum in DRUMS}
    for hit in hits:
        start = round(hit.onset * sample_rate)
        sound = kit[hit.drum][: max(samples - start, 0)]
        part[start : start + len(sound)] += hit.velocity * sound
    return part


def _drum(drum: str, sample_rate: int, generator: np.random.Generator) -> Float32[np.ndarray, " N"]:
    seconds = {"kick": 0.3, "snare": 0.22, "clap": 0.2, "hat": 0.07, "shaker": 0.1}[drum]
    time = np.arange(int(seconds * sample_rate), dtype=np.float32) / np.float32(sample_rate)
    noise = 0.4 * generator.standard_normal(len(time) + 2, np.float32)
    bright = np.diff(noise)
    if drum == "kick":
        # The pitch falls from 150 to 50 Hz: phase is the integral of 50 + 100 exp(-30 t).
        phase = 2 * math.pi * (50 * time + 100 / 30 * (1 - np.exp(-30 * time)))
        sound = np.sin(phase) * np.exp(-12 * time)
    elif drum == "snare":
        sound = 0.5 * np.sin(2 * math.pi * 190 * time) * np.exp(-25 * time) + bright[1:] * np.exp(-18 * time)
    elif drum == "clap":
        bursts = sum((time >= at) * np.exp(-90 * np.maximum(time - at, 0)) for at in (0.0, 0.012, 0.024))
        sound = bright[1:] * (0.8 * bursts + 0.5 * np.exp(-22 * time))
    elif drum == "hat":
        sound = 0.6 * np.diff(bright) * np.exp(-60 * time)
    else:
        sound = 0.6 * np.diff(bright) * np.minimum(time / 0.03, 1) * np.exp(-35 * time)
    fade = np.minimum((time[-1] - time) / 0.005, 1.0)
    return (sound * fade).astype(np.float32)
