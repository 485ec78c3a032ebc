"""How good a codec is on sound that it did not learn from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from model.codec.codec import Codec
from model.codec.losses import log_mel_distance, multi_scale_mel_distance, si_snr


@dataclass(frozen=True)
class CodecQuality:
    """Means over recordings; the codebooks' figures are over all of their frames together."""

    si_snr: float
    """dB; higher is better."""
    log_mel_distance: float
    """dB; lower is better."""
    multi_scale_mel_distance: float
    """dB, over windows of 64 to 1024 samples; lower is better."""
    bit_rate: float
    """Kilobits a second that the codes take as they are, with no entropy coding."""
    used: tuple[float, ...]
    """Share of each codebook's entries that occur at all."""
    perplexity: tuple[float, ...]
    """Exponential of the entropy of each codebook's codes: how many entries are in even use."""


def judge(codec: Codec, recordings: Sequence[Float[Tensor, "1 C N"]]) -> CodecQuality:
    """Encode and decode recordings, each alone. Leaves the codec's weights as they are.

    Raises:
        ValueError: there is nothing to judge by.
    """
    if not recordings:
        raise ValueError("expected recordings to judge a codec by, got none")
    ratios, distances, multi_scale = [], [], []
    counts = torch.zeros(codec.codebooks, codec.cardinality)
    for wav in recordings:
        codes = codec.encode(wav)
        made = codec.decode(codes)[..., : wav.shape[-1]].cpu()
        ratios.append(float(si_snr(made, wav).mean()))
        distances.append(float(log_mel_distance(made, wav, codec.sample_rate)))
        multi_scale.append(float(multi_scale_mel_distance(made, wav, codec.sample_rate)))
        for level in range(codec.codebooks):
            counts[level] += torch.bincount(codes[0, level].cpu(), minlength=codec.cardinality)
    shares = counts / counts.sum(dim=1, keepdim=True)
    entropy = -(shares * shares.clamp(min=1e-12).log()).sum(dim=1)
    return CodecQuality(
        si_snr=sum(ratios) / len(ratios),
        log_mel_distance=sum(distances) / len(distances),
        multi_scale_mel_distance=sum(multi_scale) / len(multi_scale),
        bit_rate=codec.codebooks * math.log2(codec.cardinality) * codec.frame_rate / 1000,
        used=tuple((counts > 0).float().mean(dim=1).tolist()),
        perplexity=tuple(entropy.exp().tolist()),
    )
