"""A drum kit: each drum is one short sound, made once for a piece and placed at every stroke."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from model.synthesis.score import Hit

DRUMS = ("kick", "snare", "clap", "hat", "shaker")
"""Names of the drums."""


def play_drums(
    hits: tuple[Hit, ...], samples: int, sample_rate: int, generator: torch.Generator
) -> Float[Tensor, " N"]:
    """The drum part of a piece, N samples at `sample_rate` Hz; `generator` is the source of the noise.

    Raises:
        ValueError: an unknown drum.
    """
    part = torch.zeros(samples)
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


def _drum(drum: str, sample_rate: int, generator: torch.Generator) -> Float[Tensor, " N"]:
    seconds = {"kick": 0.3, "snare": 0.22, "clap": 0.2, "hat": 0.07, "shaker": 0.1}[drum]
    time = torch.arange(int(seconds * sample_rate), dtype=torch.float32) / sample_rate
    noise = torch.randn(len(time) + 2, generator=generator) * 0.4
    bright = noise.diff()
    if drum == "kick":
        # The pitch falls from 150 to 50 Hz: phase is the integral of 50 + 100 exp(-30 t).
        phase = 2 * math.pi * (50 * time + 100 / 30 * (1 - torch.exp(-30 * time)))
        sound = torch.sin(phase) * torch.exp(-12 * time)
    elif drum == "snare":
        sound = 0.5 * torch.sin(2 * math.pi * 190 * time) * torch.exp(-25 * time) + bright[1:] * torch.exp(-18 * time)
    elif drum == "clap":
        bursts = sum((time >= at) * torch.exp(-90 * (time - at).clamp(min=0)) for at in (0.0, 0.012, 0.024))
        sound = bright[1:] * (0.8 * bursts + 0.5 * torch.exp(-22 * time))
    elif drum == "hat":
        sound = 0.6 * bright.diff() * torch.exp(-60 * time)
    else:
        sound = 0.6 * bright.diff() * (time / 0.03).clamp(max=1) * torch.exp(-35 * time)
    fade = ((time[-1] - time) / 0.005).clamp(max=1.0)
    return sound * fade
