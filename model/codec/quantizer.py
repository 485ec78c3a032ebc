"""Training of residual vector quantisation, which turns an autoencoder's latents into K integers a frame.

transformers holds EnCodec's codebooks as buffers and has no training for them. This module trains these buffers in
place: nearest-neighbour codes, a straight-through gradient and commitment loss for the encoder, moving averages for
the codebooks (van den Oord et al., arXiv:1711.00937, appendix A.1), a k-means start and the replacement of dead codes
(SoundStream, arXiv:2107.03312, III-C; EnCodec, arXiv:2210.13438, 3.2).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers.models.encodec.modeling_encodec import EncodecEuclideanCodebook, EncodecResidualVectorQuantizer

from model.codec.config import QuantizerConfig


@dataclass(frozen=True)
class Quantized:
    """Quantised latents, their codes, and the commitment loss, which pulls the encoder's outputs to the codebooks."""

    latents: Float[Tensor, "B D T"]
    codes: Int[Tensor, "B K T"]
    commitment: Float[Tensor, ""]


def codebooks_of(quantizer: EncodecResidualVectorQuantizer) -> list[EncodecEuclideanCodebook]:
    """Return the codebooks, first level first."""
    return [cast(EncodecEuclideanCodebook, layer.codebook) for layer in quantizer.layers]


def nearest(vectors: Float[Tensor, "M D"], embed: Float[Tensor, "V D"]) -> Int[Tensor, " M"]:
    """Return the index of the nearest codebook entry of every vector, by Euclidean distance."""
    return (embed.pow(2).sum(1) - 2 * vectors @ embed.t()).argmin(dim=1)


def train_quantizer(
    quantizer: EncodecResidualVectorQuantizer,
    latents: Float[Tensor, "B D T"],
    config: QuantizerConfig,
    generator: torch.Generator,
    bandwidths: Sequence[int] = (),
) -> Quantized:
    """Quantise with the current codebooks, then update them: one training pass.

    The gradient of the output reaches `latents` unchanged. The commitment of a level is the mean square of the
    difference between its residual and the chosen entry. Entries have no gradient.

    Args:
        bandwidths: numbers of codebooks that dropout chooses from; with fewer than two it chooses from 1 to K.

    Returns:
        The quantised latents, codes of every level (also those that dropout left out of the sum) and the mean
        commitment over levels.
    """
    batch, width, frames = latents.shape
    levels = len(codebooks_of(quantizer))
    active = _active_levels(batch, levels, config.dropout, generator, bandwidths).to(latents.device)
    residual = latents.permute(0, 2, 1)
    total = torch.zeros_like(residual)
    codes, losses = [], []
    for level, codebook in enumerate(codebooks_of(quantizer)):
        flat = residual.detach().reshape(-1, width)
        indices = nearest(flat, codebook.embed)
        entry = F.embedding(indices, codebook.embed).view(batch, frames, width)
        used = (active > level).view(batch, 1, 1)
        losses.append(((entry - residual) * used).pow(2).sum() / (used.sum() * frames * width).clamp(min=1))
        with torch.no_grad():
            kept = used.expand(batch, frames, 1).reshape(-1)
            update_codebook(codebook, flat[kept], indices[kept], config, generator)
        total = total + entry * used
        residual = residual - entry
        codes.append(indices.view(batch, frames))
    quantized = latents + (total.permute(0, 2, 1) - latents).detach()
    return Quantized(quantized, torch.stack(codes, dim=1), torch.stack(losses).mean())


def _active_levels(
    batch: int, levels: int, dropout: float, generator: torch.Generator, bandwidths: Sequence[int] = ()
) -> Int[Tensor, " B"]:
    """Draw at random how many codebooks each item of the batch trains with."""
    if dropout == 0:
        return torch.full((batch,), levels)
    choices = torch.tensor(bandwidths if len(bandwidths) > 1 else range(1, levels + 1))
    dropped = torch.rand(batch, generator=generator) < dropout
    return torch.where(dropped, choices[torch.randint(len(choices), (batch,), generator=generator)], levels)


def update_codebook(
    codebook: EncodecEuclideanCodebook,
    vectors: Float[Tensor, "M D"],
    indices: Int[Tensor, " M"],
    config: QuantizerConfig,
    generator: torch.Generator,
) -> None:
    """Move a codebook towards the vectors that chose its entries, then replace dead entries by vectors of the batch.

    Replacing comes last and sets the moving averages too; otherwise the next step would restore the dead entry from its
    average.
    """
    if len(vectors) == 0:
        return
    # A product with one-hot rows is used, not a scattered sum, because its order of addition is always the same.
    chosen = F.one_hot(indices, codebook.codebook_size).to(vectors.dtype)
    codebook.cluster_size.mul_(config.decay).add_(chosen.sum(0), alpha=1 - config.decay)
    codebook.embed_avg.mul_(config.decay).add_(chosen.t() @ vectors, alpha=1 - config.decay)
    total = codebook.cluster_size.sum()
    smoothed = (codebook.cluster_size + config.epsilon) / (total + codebook.codebook_size * config.epsilon) * total
    codebook.embed.copy_(codebook.embed_avg / smoothed[:, None])

    mean_count = total / codebook.codebook_size
    dead = (codebook.cluster_size < config.dead_code_share * mean_count).nonzero()[:, 0]
    if len(dead) > 0:
        drawn = torch.randint(len(vectors), (len(dead),), generator=generator).to(vectors.device)
        codebook.embed[dead] = vectors[drawn]
        codebook.embed_avg[dead] = vectors[drawn] * mean_count
        codebook.cluster_size[dead] = mean_count


@torch.no_grad()
def start_codebooks(
    quantizer: EncodecResidualVectorQuantizer,
    latents: Float[Tensor, "B D T"],
    config: QuantizerConfig,
    generator: torch.Generator,
) -> None:
    """Set every codebook by k-means on the residuals that reach it.

    The moving averages start from the sizes and sums of the clusters, which then decay by `config.decay` a step.

    Raises:
        ValueError: there are fewer vectors than entries of a codebook.
    """
    residual = latents.permute(0, 2, 1).reshape(-1, latents.shape[1])
    for codebook in codebooks_of(quantizer):
        if len(residual) < codebook.codebook_size:
            raise ValueError(
                f"expected at least {codebook.codebook_size} frames to start a codebook from, got {len(residual)}"
            )
        means, counts = kmeans(residual, codebook.codebook_size, config.kmeans_iterations, generator)
        codebook.embed.copy_(means)
        codebook.embed_avg.copy_(means * counts[:, None])
        codebook.cluster_size.copy_(counts)
        codebook.inited.fill_(1)
        residual = residual - F.embedding(nearest(residual, means), means)


def kmeans(
    vectors: Float[Tensor, "M D"], clusters: int, iterations: int, generator: torch.Generator
) -> tuple[Float[Tensor, "V D"], Float[Tensor, " V"]]:
    """Cluster by Lloyd's algorithm, starting from distinct random vectors; return means and counts of the clusters.

    An empty cluster keeps its mean.
    """
    means = vectors[torch.randperm(len(vectors), generator=generator)[:clusters].to(vectors.device)].clone()
    counts = torch.zeros(clusters, dtype=vectors.dtype, device=vectors.device)
    for _ in range(iterations):
        chosen = F.one_hot(nearest(vectors, means), clusters).to(vectors.dtype)
        counts = chosen.sum(0)
        means = torch.where(counts[:, None] > 0, chosen.t() @ vectors / counts.clamp(min=1)[:, None], means)
    return means, counts
