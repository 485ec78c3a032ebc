"""EnCodec (arXiv:2210.13438) as a coder: a SEANet with recurrent layers, and residual codebooks."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import EncodecModel

from model.codec.coder import Coder, Margins
from model.codec.network import fold_weight_norm


def encodec_coder(network: EncodecModel) -> Coder:
    """EnCodec, its codes those of transformers' own `encode` and `decode`.

    The convolutions look a few frames around; how long the recurrent layers remember has no end, but a second before
    and after leaves next to nothing of it (see the tests).
    """
    config: Any = network.config
    quantizer: Any = network.quantizer

    def encode(wav: Float[Tensor, "B C N"], levels: int) -> Int[Tensor, "B K T"]:
        residual = network.encoder(wav)
        codes = []
        for layer in quantizer.layers[:levels]:
            indices = layer.encode(residual)
            residual = residual - layer.decode(indices)
            codes.append(indices)
        return torch.stack(codes, dim=1)

    def decode(codes: Int[Tensor, "B K T"]) -> Float[Tensor, "B C N"]:
        return network.decoder(quantizer.decode(codes.transpose(0, 1)))

    def prepare() -> None:
        fold_weight_norm(network)

    second = max(1, round(config.sampling_rate / config.hop_length))
    return Coder(
        kind="EnCodec",
        sample_rate=config.sampling_rate,
        channels=config.audio_channels,
        hop=config.hop_length,
        codebooks=len(quantizer.layers),
        cardinality=config.codebook_size,
        margins=Margins(second, second),
        codebook=lambda level: quantizer.layers[level].codebook.embed,
        encode=encode,
        decode=decode,
        prepare=prepare,
        # A chunk's loudness is a number beside its codes, which a language model of codes knows nothing of.
        obstacle="normalisation or chunks, as at 48 kHz" if config.normalize or config.chunk_length_s else None,
    )
