"""The quality of a codec on sound that it was not trained on, and of a plain codec at the same bit rate.

The plain codec quantises scalars. Sound is resampled to as many samples as the bit rate allows, each sample is rounded
to one of 2^b levels - evenly spaced, or by the mu-law of telephony (ITU-T G.711, Bell System Technical Journal 36(3),
1957) - and the result is resampled back. Nothing is learned, and there is no entropy coding. For every recording it
uses the number of bits, the law and the scale with the highest SI-SNR, so it is the plain codec at its best.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import stdev

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from model.codec.codec import Codec
from model.codec.losses import log_mel_distance, multi_scale_mel_distance, si_snr

DEPTHS = range(1, 13)
"""Bits a sample that are tried: fewer bits leave room for more samples, and so for higher frequencies."""

MU = 255.0
"""Parameter of the mu-law, as in G.711."""

RMS_MULTIPLES = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
"""Scales that are tried in addition to the peak of the samples, in multiples of their root mean square."""

HEADER_BITS = 24
"""Bits of a recording's header: its scale as a half-precision number (16), bits a sample and law (8)."""


@dataclass(frozen=True)
class Fidelity:
    """How close decoded sound is to the original; for several recordings, the mean."""

    si_snr: float
    """Scale-invariant signal-to-noise ratio, dB; higher is better."""
    log_mel_distance: float
    """Distance of log mel spectra, dB; lower is better."""
    multi_scale_mel_distance: float
    """Mean distance of log mel spectra over windows of 64 to 1024 samples, dB; lower is better."""


@dataclass(frozen=True)
class CodecQuality:
    """The quality of a codec on recordings: means over recordings; `used` and `perplexity` are over all frames."""

    fidelity: Fidelity
    si_snr_error: float
    """Standard error of the mean SI-SNR over the recordings, dB; NaN for one recording."""
    bit_rate: float
    """Bit rate of the codes without entropy coding, kilobits a second."""
    used: tuple[float, ...]
    """Share of each codebook's entries that occur at all."""
    perplexity: tuple[float, ...]
    """Exponential of the entropy of each codebook's codes: the number of entries if all were equally frequent."""


@dataclass(frozen=True)
class ScalarQuality:
    """The quality of the plain scalar-quantised codec on the same recordings."""

    fidelity: Fidelity
    bit_rate: float
    """Bit rate that was used in fact, kilobits a second."""


def fidelity(decoded: Float[Tensor, "1 C N"], original: Float[Tensor, "1 C N"], sample_rate: int) -> Fidelity:
    """Measure how close a recording's decoded sound is to the original. A silent channel has no SI-SNR: the mean is
    over the other channels, and NaN if there are none."""
    return Fidelity(
        si_snr=float(si_snr(decoded, original).nanmean()),
        log_mel_distance=float(log_mel_distance(decoded, original, sample_rate)),
        multi_scale_mel_distance=float(multi_scale_mel_distance(decoded, original, sample_rate)),
    )


@dataclass(frozen=True, eq=False)
class ScalarCoded:
    """A recording after the plain codec."""

    sound: Float[Tensor, "C N"]
    bits: int
    """Bits in all, including the header."""
    depth: int
    """Bits a sample."""
    samples: int
    """Coded samples of each channel."""


def scalar_coded(wav: Float[Tensor, "C N"], budget: int) -> ScalarCoded:
    """Encode and decode a recording by the plain codec with at most `budget` bits; return the result of the highest
    SI-SNR.

    Raises:
        ValueError: the budget is too small for the header and one bit for each channel.
    """
    channels, length = wav.shape
    spectrum = torch.fft.rfft(wav)
    best: ScalarCoded | None = None
    highest = -math.inf
    for depth in DEPTHS:
        samples = min(length, (budget - HEADER_BITS) // (depth * channels))
        if samples < 1:
            break
        downsampled = _resampled(spectrum, length, samples)
        rounded = max(_roundings(downsampled, depth), key=lambda candidate: _mean_si_snr(candidate, downsampled))
        sound = _resampled(torch.fft.rfft(rounded), samples, length)
        quality = _mean_si_snr(sound, wav)
        if best is None or quality > highest:
            best = ScalarCoded(sound, HEADER_BITS + samples * depth * channels, depth, samples)
            highest = quality
    if best is None:
        raise ValueError(f"expected at least {HEADER_BITS + channels} bits for {channels} channels, got {budget}")
    return best


def quantise(values: Float[Tensor, "..."], depth: int, mu: float = 0.0) -> Float[Tensor, "..."]:
    """Round values to the middles of 2^depth intervals of [-1, 1]. Values outside are rounded to the outermost ones.

    The intervals are equal for a `mu` of 0, else narrower near 0 (mu-law).
    """
    levels = 2**depth
    compressed = values if mu == 0 else values.sign() * torch.log1p(mu * values.abs()) / math.log1p(mu)
    index = ((compressed + 1) / 2 * levels).floor().clamp(0, levels - 1)
    middle: Tensor = (2 * index + 1) / levels - 1
    return middle if mu == 0 else middle.sign() * torch.expm1(middle.abs() * math.log1p(mu)) / mu


def _roundings(samples: Float[Tensor, "C n"], depth: int) -> Iterator[Float[Tensor, "C n"]]:
    """Yield the samples rounded with each scale and law that is tried."""
    root_mean_square = float(samples.square().mean().sqrt())
    for scale in (float(samples.abs().max()), *(multiple * root_mean_square for multiple in RMS_MULTIPLES)):
        stored_scale = float(torch.tensor(scale).half()) or torch.finfo(torch.half).tiny
        for mu in (0.0, MU):
            yield stored_scale * quantise(samples / stored_scale, depth, mu)


def _resampled(spectrum: Complex[Tensor, "C _"], length: int, wanted: int) -> Float[Tensor, "C wanted"]:
    """Resample sound of `length` samples, given as its spectrum, to `wanted` samples. Frequencies that both rates can
    represent are kept."""
    bins = (min(length, wanted) + 1) // 2
    kept = torch.zeros(spectrum.shape[0], wanted // 2 + 1, dtype=spectrum.dtype)
    kept[:, :bins] = spectrum[:, :bins]
    resampled: Tensor = torch.fft.irfft(kept, wanted)
    return resampled * (wanted / length)


def _mean_si_snr(decoded: Tensor, original: Tensor) -> float:
    """Return the mean SI-SNR over the channels that are not silent; minus infinity if all are silent."""
    ratio = float(si_snr(decoded, original).nanmean())
    return -math.inf if math.isnan(ratio) else ratio


def evaluate_codec(codec: Codec, recordings: Sequence[Float[Tensor, "1 C _"]]) -> CodecQuality:
    """Encode and decode recordings, each alone, and return the codec's quality on them.

    Raises:
        ValueError: there are no recordings.
    """
    fidelities = []
    counts = torch.zeros(codec.codebooks, codec.cardinality)
    for wav in recordings:
        codes = codec.encode(wav)
        decoded = codec.decode(codes)[..., : wav.shape[-1]].cpu()
        fidelities.append(fidelity(decoded, wav, codec.sample_rate))
        for level in range(codec.codebooks):
            counts[level] += torch.bincount(codes[0, level].cpu(), minlength=codec.cardinality)
    shares = counts / counts.sum(dim=1, keepdim=True)
    entropy = -(shares * shares.clamp(min=1e-12).log()).sum(dim=1)
    ratios = [each.si_snr for each in fidelities]
    return CodecQuality(
        fidelity=_mean_fidelity(fidelities),
        si_snr_error=stdev(ratios) / math.sqrt(len(ratios)) if len(ratios) > 1 else math.nan,
        bit_rate=codec.codebooks * math.log2(codec.cardinality) * codec.frame_rate / 1000,
        used=tuple((counts > 0).float().mean(dim=1).tolist()),
        perplexity=tuple(entropy.exp().tolist()),
    )


def evaluate_scalar_codec(
    recordings: Sequence[Float[Tensor, "1 C _"]], sample_rate: int, bit_rate: float
) -> ScalarQuality:
    """Encode and decode recordings by the plain scalar-quantised codec, each with at most `bit_rate`.

    Args:
        sample_rate: sample rate of the recordings, Hz.
        bit_rate: maximum bit rate, kilobits a second.

    Raises:
        ValueError: there are no recordings, or one is too short for the bit rate.
    """
    fidelities, bits, total_seconds = [], 0, 0.0
    for wav in recordings:
        seconds = wav.shape[-1] / sample_rate
        coded = scalar_coded(wav[0], math.floor(bit_rate * 1000 * seconds))
        fidelities.append(fidelity(coded.sound[None], wav, sample_rate))
        bits, total_seconds = bits + coded.bits, total_seconds + seconds
    return ScalarQuality(fidelity=_mean_fidelity(fidelities), bit_rate=bits / total_seconds / 1000)


def _mean_fidelity(fidelities: Sequence[Fidelity]) -> Fidelity:
    if not fidelities:
        raise ValueError("expected recordings to evaluate a codec on, got none")
    return Fidelity(
        si_snr=sum(each.si_snr for each in fidelities) / len(fidelities),
        log_mel_distance=sum(each.log_mel_distance for each in fidelities) / len(fidelities),
        multi_scale_mel_distance=sum(each.multi_scale_mel_distance for each in fidelities) / len(fidelities),
    )
