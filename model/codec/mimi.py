"""Mimi (Moshi, arXiv:2410.00037, 3.3) as a coder: a causal SEANet and transformers, few frames a second, and a first
codebook that learned from a speech model, beside the others, which are residual."""

import math
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from transformers import MimiModel

from model.codec.coder import Coder, Margins

CONVOLUTIONS = 8
"""Frames that bound what the convolutions see, of the published network and of smaller ones."""

ATTENTION_WINDOWS = 3
"""Lengths of the attention's sliding window (10 s of the published network) that codes are given before what is kept.

Each of the transformer's layers looks one window further back, 80 s in all, but with every layer less of it is left.
Measured with random weights that attend sharply, sharper and sharpest in 8 layers, 99.9, 97 and 82 % of the codes are
those of one long pass with 20 s before them, 100, 99.97 and 97 % with 30 s, and all with 80 s.
"""


def mimi_coder(network: MimiModel) -> Coder:
    """Mimi, its codes those of transformers' own `encode` and `decode`, without their caches.

    Raises:
        ValueError: a network that lacks one half, or does not halve the rate between its transformer and its codes.
    """
    config: Any = network.config
    quantizer: Any = network.quantizer
    # Typed loosely, as a half can be left out of a Mimi.
    encoder: Any = network.encoder
    decoder: Any = network.decoder
    if encoder is None or decoder is None:
        raise ValueError(f"expected a Mimi that encodes and decodes, got one with no {_half(encoder)}")
    if encoder.downsample is None:
        raise ValueError(f"expected a Mimi of fewer frames than {config.encodec_frame_rate} a second, got as many")
    stride: int = encoder.downsample.conv.stride[0]
    semantic: int = config.num_semantic_quantizers

    def encode(wav: Float[Tensor, "B C N"], levels: int) -> Int[Tensor, "B K T"]:
        made = network.encode(wav, num_quantizers=max(levels, semantic), use_streaming=False)
        return made.audio_codes[:, :levels]

    def decode(codes: Int[Tensor, "B K T"]) -> Float[Tensor, "B C N"]:
        return network.decode(codes, use_cache=False).audio_values

    def prepare() -> None:
        for layer in _layers(quantizer):
            layer.codebook._embed = None  # a table that was made where the network lay before

    return Coder(
        kind="Mimi",
        sample_rate=config.sampling_rate,
        channels=config.audio_channels,
        hop=math.prod(config.upsampling_ratios) * stride,
        codebooks=config.num_quantizers,
        cardinality=config.codebook_size,
        margins=Margins(
            before=ATTENTION_WINDOWS * math.ceil(config.sliding_window / stride) + CONVOLUTIONS,
            after=0 if config.use_causal_conv else CONVOLUTIONS,
        ),
        codebook=lambda level: _table(_layers(quantizer)[level].codebook),
        encode=encode,
        decode=decode,
        prepare=prepare,
    )


def _half(encoder: Any) -> str:
    return "encoder" if encoder is None else "decoder"


def _layers(quantizer: Any) -> list[Any]:
    parts = (quantizer.semantic_residual_vector_quantizer, quantizer.acoustic_residual_vector_quantizer)
    return [layer for part in parts for layer in part.layers]


def _table(codebook: Any) -> Float[Tensor, "V E"]:
    """Moving sums over moving counts. Made on the CPU, so that a codec's identity does not depend on a device."""
    sums, counts = codebook.embed_sum.cpu(), codebook.cluster_usage.cpu()
    return sums / counts.clamp(min=codebook.epsilon)[:, None]
