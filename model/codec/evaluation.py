"""How good a codec is on sound that it did not learn from, and what a plain one of the same bit rate makes of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from model.codec.codec import Codec
from model.codec.losses import log_mel_distance, multi_scale_mel_distance, si_snr
from model.codec.scalar import scalar_coded


@dataclass(frozen=True)
class Fidelity:
    """How near decoded sound is to the original; of several recordings, the mean."""

    si_snr: float
    """dB; higher is better."""
    log_mel_distance: float
    """dB; lower is better."""
    multi_scale_mel_distance: float
    """dB, over windows of 64 to 1024 samples; lower is better."""


@dataclass(frozen=True)
class CodecQuality:
    """A codec on recordings: the means over them; the codebooks' figures are over all of their frames together."""

    fidelity: Fidelity
    bit_rate: float
    """Kilobits a second that the codes take as they are, with no entropy coding."""
    used: tuple[float, ...]
    """Share of each codebook's entries that occur at all."""
    perplexity: tuple[float, ...]
    """Exponential of the entropy of each codebook's codes: how many entries are in even use."""


@dataclass(frozen=True)
class ScalarQuality:
    """The plain scalar-quantised codec on the same recordings."""

    fidelity: Fidelity
    bit_rate: float
    """Kilobits a second that it took in fact."""


def fidelity(made: Float[Tensor, "1 C N"], original: Float[Tensor, "1 C N"], sample_rate: int) -> Fidelity:
    """How near a recording's decoded sound is to it. A silent channel has no SI-SNR: the mean is over the others, and
    NaN where there is none."""
    return Fidelity(
        si_snr=float(si_snr(made, original).nanmean()),
        log_mel_distance=float(log_mel_distance(made, original, sample_rate)),
        multi_scale_mel_distance=float(multi_scale_mel_distance(made, original, sample_rate)),
    )


def judge(codec: Codec, recordings: Sequence[Float[Tensor, "1 C _"]]) -> CodecQuality:
    """Encode and decode recordings, each alone. Leaves the codec's weights as they are.

    Raises:
        ValueError: there is nothing to judge by.
    """
    found = []
    counts = torch.zeros(codec.codebooks, codec.cardinality)
    for wav in recordings:
        codes = codec.encode(wav)
        made = codec.decode(codes)[..., : wav.shape[-1]].cpu()
        found.append(fidelity(made, wav, codec.sample_rate))
        for level in range(codec.codebooks):
            counts[level] += torch.bincount(codes[0, level].cpu(), minlength=codec.cardinality)
    shares = counts / counts.sum(dim=1, keepdim=True)
    entropy = -(shares * shares.clamp(min=1e-12).log()).sum(dim=1)
    return CodecQuality(
        fidelity=_mean(found),
        bit_rate=codec.codebooks * math.log2(codec.cardinality) * codec.frame_rate / 1000,
        used=tuple((counts > 0).float().mean(dim=1).tolist()),
        perplexity=tuple(entropy.exp().tolist()),
    )


def judge_scalar(recordings: Sequence[Float[Tensor, "1 C _"]], sample_rate: int, bit_rate: float) -> ScalarQuality:
    """What the plain scalar-quantised codec makes of the recordings, in no recording above `bit_rate`.

    Args:
        sample_rate: of the recordings, Hz.
        bit_rate: kilobits a second.

    Raises:
        ValueError: there is nothing to judge by, or a recording is too short for the bit rate.
    """
    found, bits, seconds = [], 0, 0.0
    for wav in recordings:
        lasts = wav.shape[-1] / sample_rate
        coded = scalar_coded(wav[0], math.floor(bit_rate * 1000 * lasts))
        found.append(fidelity(coded.sound[None], wav, sample_rate))
        bits, seconds = bits + coded.bits, seconds + lasts
    return ScalarQuality(fidelity=_mean(found), bit_rate=bits / seconds / 1000)


def _mean(found: Sequence[Fidelity]) -> Fidelity:
    if not found:
        raise ValueError("expected recordings to judge a codec by, got none")
    return Fidelity(
        si_snr=sum(one.si_snr for one in found) / len(found),
        log_mel_distance=sum(one.log_mel_distance for one in found) / len(found),
        multi_scale_mel_distance=sum(one.multi_scale_mel_distance for one in found) / len(found),
    )
