"""A plain scalar-quantised codec, for a neural one to be measured against at the same bit rate.

Sound is resampled to as many samples as the bits pay for, each is rounded to one of 2^b levels - evenly spaced, or by
the mu-law of telephony (ITU-T G.711, Bell System Technical Journal 36(3), 1957) - and the result is resampled back.
Nothing is learnt and no entropy is coded. For every recording it takes the number of bits, the law and the scale that
serve SI-SNR best: the plain codec at its best.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from model.codec.losses import si_snr

DEPTHS = range(1, 13)
"""Bits a sample that are tried: fewer bits pay for more samples, and so for higher frequencies."""

MU = 255.0
"""Of the mu-law, as in G.711."""

LOADS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
"""Scales that are tried, in root mean squares of the samples, beside their peak."""

HEADER_BITS = 24
"""What a recording says first: its scale as a half-precision number (16), bits a sample and law (8)."""


@dataclass(frozen=True, eq=False)
class ScalarCoded:
    """A recording after the plain codec."""

    sound: Float[Tensor, "C N"]
    bits: int
    """All that it took, header included."""
    depth: int
    """Bits a sample."""
    samples: int
    """Samples of each channel."""


def scalar_coded(wav: Float[Tensor, "C N"], budget: int) -> ScalarCoded:
    """The best that the plain codec makes of a recording with at most `budget` bits, by SI-SNR.

    Raises:
        ValueError: the budget does not pay for the header and one bit of each channel.
    """
    channels, length = wav.shape
    spectrum = torch.fft.rfft(wav)
    best: ScalarCoded | None = None
    highest = -math.inf
    for depth in DEPTHS:
        samples = min(length, (budget - HEADER_BITS) // (depth * channels))
        if samples < 1:
            break
        few = _resampled(spectrum, length, samples)
        rounded = max(_roundings(few, depth), key=lambda one: _mean_si_snr(one, few))
        sound = _resampled(torch.fft.rfft(rounded), samples, length)
        quality = _mean_si_snr(sound, wav)
        if best is None or quality > highest:
            best = ScalarCoded(sound, HEADER_BITS + samples * depth * channels, depth, samples)
            highest = quality
    if best is None:
        raise ValueError(f"expected at least {HEADER_BITS + channels} bits for {channels} channels, got {budget}")
    return best


def quantise(values: Float[Tensor, "..."], depth: int, mu: float = 0.0) -> Float[Tensor, "..."]:
    """Values rounded to the middles of 2^depth intervals of [-1, 1], those beyond to the outermost; equal intervals for
    a `mu` of 0, else narrower ones near 0."""
    levels = 2**depth
    pressed = values if mu == 0 else values.sign() * torch.log1p(mu * values.abs()) / math.log1p(mu)
    index = ((pressed + 1) / 2 * levels).floor().clamp(0, levels - 1)
    middle = (2 * index + 1) / levels - 1
    return middle if mu == 0 else middle.sign() * torch.expm1(middle.abs() * math.log1p(mu)) / mu


def _roundings(few: Float[Tensor, "C n"], depth: int) -> Iterator[Float[Tensor, "C n"]]:
    """The samples by every scale and law."""
    level = float(few.square().mean().sqrt())
    for scale in (float(few.abs().max()), *(load * level for load in LOADS)):
        sent = float(torch.tensor(scale).half()) or torch.finfo(torch.half).tiny
        for mu in (0.0, MU):
            yield sent * quantise(few / sent, depth, mu)


def _resampled(spectrum: Complex[Tensor, "C _"], length: int, wanted: int) -> Float[Tensor, "C wanted"]:
    """Samples [C, wanted] of the sound whose spectrum is that of `length` samples: what both rates can hold of it."""
    bins = (min(length, wanted) + 1) // 2
    kept = torch.zeros(spectrum.shape[0], wanted // 2 + 1, dtype=spectrum.dtype)
    kept[:, :bins] = spectrum[:, :bins]
    return torch.fft.irfft(kept, wanted) * (wanted / length)


def _mean_si_snr(made: Tensor, true: Tensor) -> float:
    """Over the channels that have sound; minus infinity where none has."""
    ratio = float(si_snr(made, true).nanmean())
    return -math.inf if math.isnan(ratio) else ratio
