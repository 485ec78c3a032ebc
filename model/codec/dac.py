"""DAC, the Descript audio codec (arXiv:2306.06546), as a coder: convolutions alone, and codebooks of few dimensions,
looked up by direction, each between projections of its own."""

import math
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad
from transformers import DacConfig, DacModel

from model.codec.coder import Coder, Margins

DILATIONS = (1, 3, 9)
"""Of the residual units at each rate, whose kernels are 7 wide (descript-audio-codec, `EncoderBlock`)."""


def dac_coder(network: DacModel) -> Coder:
    """DAC, its codes those of transformers' own `encode` and `decode` on whole frames, as its feature extractor fills
    them up with silence. It is mono."""
    config: Any = network.config
    quantizer: Any = network.quantizer
    hop: int = config.hop_length

    def encode(wav: Float[Tensor, "B C N"], levels: int) -> Int[Tensor, "B K T"]:
        whole = pad(wav, (0, -wav.shape[-1] % hop))
        return network.encode(whole, n_quantizers=levels).audio_codes

    def decode(codes: Int[Tensor, "B K T"]) -> Float[Tensor, "B C N"]:
        samples = network.decode(audio_codes=codes).audio_values[:, None]
        # An odd stride costs the end some samples: 8 of the published ones at 16 and 24 kHz.
        return pad(samples, (0, codes.shape[-1] * hop - samples.shape[-1]))

    far = reach(config)
    return Coder(
        kind="DAC",
        sample_rate=config.sampling_rate,
        channels=1,
        hop=hop,
        codebooks=config.n_codebooks,
        cardinality=config.codebook_size,
        margins=Margins(far, far),
        codebook=lambda level: quantizer.quantizers[level].codebook.weight,
        encode=encode,
        decode=decode,
        prepare=lambda: None,  # transformers loads plain weights
    )


def reach(config: DacConfig) -> int:
    """Frames around its own that a frame's codes, or its samples, can depend on: 12 of the published network at
    44.1 kHz."""
    units = 3 * sum(DILATIONS)
    rate, encoder, decoder = 1, 3, 3  # samples a step, and how far the outermost kernels of 7 see
    for stride in config.downsampling_ratios:
        encoder += units * rate + 2 * stride * rate
        decoder += units * rate + 2 * stride * rate
        rate *= stride
    return math.ceil(max(encoder + rate, decoder + 3 * rate) / rate)
