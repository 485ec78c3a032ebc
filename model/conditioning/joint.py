"""Joint embeddings of text and audio, at will through residual codebooks first (LAION-CLAP, arXiv:2211.06687, as
AudioCraft's `JointEmbeddingConditioner` has them).

A model learns from embeddings of audio and is asked with embeddings of text, which lie apart in the joint space.
Codebooks bring both to the same few vectors. They learn from the embeddings that pass in training mode: a start by
k-means, then moving averages (`model.codec.quantizer`), the same as those of a codec.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import EncodecConfig
from transformers.models.encodec.modeling_encodec import EncodecResidualVectorQuantizer

from model.codec.quantizer import codebooks_of, start_codebooks, train_quantizer
from model.conditioning.config import ClapConfig, JointQuantizerConfig
from model.conditioning.prepared import PreparedVectors, project
from model.lm.language_model import Condition

START_VECTORS_AN_ENTRY = 10
"""Embeddings for each entry of a codebook that its start looks at; more would only take longer."""


class ClapConditioner(nn.Module):
    """Joint embeddings through the codebooks, if there are any, and a projection: one vector each."""

    def __init__(self, config: ClapConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.projection = nn.Linear(config.width, width)
        self.quantizer = None if config.quantizer is None else _new_quantizer(config.quantizer, config.width)

    @property
    def started(self) -> bool:
        """Whether the codebooks hold something; True where there are none."""
        if self.quantizer is None:
            return True
        return bool(torch.cat([codebook.inited for codebook in codebooks_of(self.quantizer)]).all())

    def start(self, embeddings: Float[Tensor, "M E"], generator: torch.Generator) -> None:
        """Set the codebooks by k-means, before training: the gist of the embeddings that it will see.

        Does nothing where there are no codebooks, or where they have started (a model that is trained further).

        Args:
            embeddings: of the training data; at most `START_VECTORS_AN_ENTRY` an entry are drawn from them.
            generator: where the draws come from, on the CPU.

        Raises:
            ValueError: fewer embeddings than entries of a codebook, or of another width.
        """
        if self.quantizer is None or self.config.quantizer is None or self.started:
            return
        entries, (count, width) = self.config.quantizer.cardinality, embeddings.shape
        if count < entries or width != self.config.width:
            raise ValueError(
                f"expected at least {entries} joint embeddings of width {self.config.width} to start codebooks of "
                f"{entries} entries, got {count} of width {width}"
            )
        drawn = torch.randperm(count, generator=generator)[: START_VECTORS_AN_ENTRY * entries]
        vectors = embeddings[drawn.to(embeddings.device)].to(self.projection.weight.device, torch.float32)
        start_codebooks(self.quantizer, vectors.T[None], self.config.quantizer.learning, generator)

    def prepare(self, embeddings: Sequence[Float[Tensor, "..."] | None]) -> PreparedVectors:
        """Stack embeddings [E]; None is a null. ValueError for one of another shape."""
        vectors = torch.zeros(len(embeddings), 1, self.config.width)
        for row, embedding in zip(vectors, embeddings, strict=True):
            if embedding is not None:
                if embedding.shape != (self.config.width,):
                    raise ValueError(f"expected a CLAP embedding [{self.config.width}], got {list(embedding.shape)}")
                row[0] = embedding
        return PreparedVectors(vectors, torch.tensor([[embedding is not None] for embedding in embeddings]))

    def forward(self, prepared: PreparedVectors) -> Condition:
        """Vectors [B, 1, D]. In training mode the codebooks move, drawing from torch's own generator; those of a frozen
        conditioner stay.

        Raises ValueError for an embedding where the codebooks have not started.
        """
        vectors = prepared.vectors
        if self.quantizer is not None:
            if not self.started and prepared.mask.any():
                raise ValueError("expected codebooks that hold joint embeddings, got empty ones: `start` fills them")
            # Whatever precision the decoder runs in: distances are differences of large squares.
            with torch.autocast(vectors.device.type, enabled=False):
                vectors = self._quantized(prepared)
        return project(self.projection, vectors, prepared.mask)

    def _quantized(self, prepared: PreparedVectors) -> Float[Tensor, "B 1 E"]:
        assert self.quantizer is not None
        assert self.config.quantizer is not None
        latents = prepared.vectors.transpose(1, 2)
        if not (self.training and self.projection.weight.requires_grad):
            return self.quantizer.decode(self.quantizer.encode(latents)).transpose(1, 2)
        # Only what is there: nulls, were they to count as in AudioCraft, would draw entries to the zero vector.
        present = prepared.mask[:, 0]
        chosen = train_quantizer(
            self.quantizer, latents[present], self.config.quantizer.learning, torch.default_generator
        )
        return latents.masked_scatter(present[:, None, None], chosen.latents).transpose(1, 2)


def _new_quantizer(config: JointQuantizerConfig, width: int) -> EncodecResidualVectorQuantizer:
    """Empty codebooks that know that they are empty."""
    frame_rate, bits = 50, (config.cardinality - 1).bit_length()
    # transformers knows the number of codebooks only through kilobits a second, rounded down.
    settings = EncodecConfig(
        sampling_rate=frame_rate * 320,
        upsampling_ratios=[8, 5, 4, 2],
        hidden_size=width,
        codebook_size=config.cardinality,
        target_bandwidths=[(config.codebooks + 0.5) * bits * frame_rate / 1000],
    )
    quantizer = EncodecResidualVectorQuantizer(settings)
    assert len(quantizer.layers) == config.codebooks
    for codebook in codebooks_of(quantizer):
        codebook.inited.zero_()
    return quantizer
