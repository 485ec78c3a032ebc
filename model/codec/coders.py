"""Coders: the protocol between this project and a neural codec, and its three kinds from transformers.

EnCodec (arXiv:2210.13438) is a SEANet with recurrent layers and residual codebooks. DAC, the Descript audio codec
(arXiv:2306.06546), has only convolutions; its codebooks have few dimensions, are looked up by direction, and each has
its own projections in and out. Mimi (Moshi, arXiv:2410.00037, 3.3) is a causal SEANet with transformers and few frames
a second; its first codebook learned from a speech model, and the others are residual.

The three differ in their networks, quantisation and receptive fields. Everything else (windows over long recordings,
stereo with a mono codec, identities, files) is written once, for a `Coder`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad
from transformers import DacConfig, DacModel, EncodecModel, MimiModel

from model.codec.network import fold_weight_norm, keep_geometry_on_host

CodecNetwork = EncodecModel | DacModel | MimiModel
"""The networks of transformers that this project can use as a codec."""


DAC_DILATIONS = (1, 3, 9)
"""Dilations of the residual units at each rate, whose kernels are 7 wide (descript-audio-codec, `EncoderBlock`)."""

MIMI_CONVOLUTIONS = 8
"""Upper bound of the receptive field of Mimi's convolutions, frames, for the published network and smaller ones."""

MIMI_ATTENTION_WINDOWS = 3
"""Context before the codes that are kept, in lengths of the sliding window of Mimi's attention (10 s in the published
network).

Each of the transformer's 8 layers sees one window further back, 80 s in all, but the influence falls with every layer.
Measured with random weights whose attention is sharp, sharper and sharpest, 99.9, 97 and 82 % of the codes equal those
of one long pass with 20 s of context; 100, 99.97 and 97 % with 30 s; and all with 80 s.
"""


@runtime_checkable
class RunsEach(Protocol):
    """A network that runs several inputs of any lengths together, faster than one by one and with the same bits."""

    def each(self, items: Sequence[Float[Tensor, "C _N"]]) -> Iterator[Float[Tensor, "D _M"]]:
        """Yield the output for each input."""


@dataclass(frozen=True)
class Margins:
    """Frames that a codec has to see around a frame so that its codes and its sound are those of one long pass."""

    before: int
    after: int


@dataclass(frozen=True, eq=False)
class Coder:
    """A codec of any kind, for sound of N samples and codes of T = ceil(N / hop) frames."""

    kind: str
    """Name of the kind, for messages."""
    sample_rate: int
    """Samples a second, Hz."""
    channels: int
    """C, channels of the sound."""
    hop: int
    """Samples a frame."""
    codebooks: int
    """Levels that the network has; the first levels alone are a coarser code."""
    cardinality: int
    """V, entries of a codebook."""
    margins: Margins
    """Context that a window needs on either side of the frames that are kept of it."""
    codebook: Callable[[int], Float[Tensor, "V E"]]
    """Returns the table of a level: the vector of each code."""
    encode: Callable[[Float[Tensor, "B C N"], int], Int[Tensor, "B K T"]]
    """Encodes waveforms with the given number of levels."""
    decode: Callable[[Int[Tensor, "B K T"]], Float[Tensor, "B C N"]]
    """Decodes codes of any number of levels, N = T * hop."""
    decode_each: Callable[[Sequence[Int[Tensor, "K _T"]]], Iterator[Float[Tensor, "C _N"]]] | None
    """Decodes codes of several lengths together, with the bits of `decode`; None if that would not be faster."""
    prepare: Callable[[], None]
    """Prepares the network for inference, in place, on its device."""
    obstacle: str | None = None
    """Why the codes alone do not determine the sound; None if they do."""

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sample_rate / self.hop


def encodec_coder(network: EncodecModel) -> Coder:
    """Return the coder of an EnCodec, with the same codes and sound as transformers' own `encode` and `decode`.

    The convolutions see a few frames around a frame. The recurrent layers have no limit, but beyond a second before and
    after they have almost no effect (see the tests).
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

    def latents(codes: Int[Tensor, "B K T"]) -> Float[Tensor, "B D T"]:
        # `quantizer.decode` is not used, because it starts from a zero on the host, which would wait for the device.
        vectors = [layer.decode(indices) for layer, indices in zip(quantizer.layers, codes.unbind(1), strict=False)]
        added: Tensor = sum(vectors[1:], start=vectors[0])
        return added

    def decode(codes: Int[Tensor, "B K T"]) -> Float[Tensor, "B C N"]:
        wav: Tensor = network.decoder(latents(codes))
        return wav

    decoder: Any = network.decoder

    def decode_each(items: Sequence[Int[Tensor, "K _T"]]) -> Iterator[Float[Tensor, "C _N"]]:
        yield from decoder.each([latents(codes[None])[0] for codes in items])

    def prepare() -> None:
        fold_weight_norm(network)
        keep_geometry_on_host(network)

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
        decode_each=decode_each if isinstance(decoder, RunsEach) else None,
        prepare=prepare,
        # The loudness of a chunk is stored in addition to its codes, and a language model does not generate it.
        obstacle="normalisation or chunks, as at 48 kHz" if config.normalize or config.chunk_length_s else None,
    )


def dac_coder(network: DacModel) -> Coder:
    """Return the coder of a DAC, which is mono. Codes and sound are those of transformers' own `encode` and `decode`
    on whole frames: like its feature extractor, this pads the last frame with silence."""
    config: Any = network.config
    quantizer: Any = network.quantizer
    hop: int = config.hop_length

    def encode(wav: Float[Tensor, "B C N"], levels: int) -> Int[Tensor, "B K T"]:
        padded = pad(wav, (0, -wav.shape[-1] % hop))
        codes: Tensor = network.encode(padded, n_quantizers=levels).audio_codes
        return codes

    def decode(codes: Int[Tensor, "B K T"]) -> Float[Tensor, "B C N"]:
        samples = network.decode(audio_codes=codes).audio_values[:, None]
        # With an odd stride, some samples at the end are missing: 8 in the published networks at 16 and 24 kHz.
        return pad(samples, (0, codes.shape[-1] * hop - samples.shape[-1]))

    frames = dac_receptive_field(config)
    return Coder(
        kind="DAC",
        sample_rate=config.sampling_rate,
        channels=1,
        hop=hop,
        codebooks=config.n_codebooks,
        cardinality=config.codebook_size,
        margins=Margins(frames, frames),
        codebook=lambda level: quantizer.quantizers[level].codebook.weight,
        encode=encode,
        decode=decode,
        decode_each=None,
        prepare=lambda: None,  # transformers loads plain weights
    )


def dac_receptive_field(config: DacConfig) -> int:
    """Return how many frames on either side a frame's codes or samples can depend on: 12 in the published network at
    44.1 kHz."""
    units = 3 * sum(DAC_DILATIONS)
    rate, encoder, decoder = 1, 3, 3  # samples a step at this layer, and the reach of the outermost kernels of 7
    for stride in config.downsampling_ratios:
        encoder += units * rate + 2 * stride * rate
        decoder += units * rate + 2 * stride * rate
        rate *= stride
    return math.ceil(max(encoder + rate, decoder + 3 * rate) / rate)


def mimi_coder(network: MimiModel) -> Coder:
    """Return the coder of a Mimi, with the same codes and sound as transformers' own `encode` and `decode` without
    caches.

    Raises:
        ValueError: the network lacks its encoder or decoder, or does not lower the frame rate between its transformer
            and its codes.
    """
    config: Any = network.config
    quantizer: Any = network.quantizer
    # Typed as Any, because the encoder or the decoder of a Mimi can be None.
    encoder: Any = network.encoder
    decoder: Any = network.decoder
    if encoder is None or decoder is None:
        missing = "encoder" if encoder is None else "decoder"
        raise ValueError(f"expected a Mimi that encodes and decodes, got one with no {missing}")
    if encoder.downsample is None:
        raise ValueError(
            f"expected a Mimi whose codes have fewer than {config.encodec_frame_rate} frames a second, got as many"
        )
    stride: int = encoder.downsample.conv.stride[0]
    semantic: int = config.num_semantic_quantizers

    def encode(wav: Float[Tensor, "B C N"], levels: int) -> Int[Tensor, "B K T"]:
        codes: Tensor = network.encode(wav, num_quantizers=max(levels, semantic), use_streaming=False).audio_codes
        return codes[:, :levels]

    def decode(codes: Int[Tensor, "B K T"]) -> Float[Tensor, "B C N"]:
        wav: Tensor = network.decode(codes, use_cache=False).audio_values
        return wav

    def prepare() -> None:
        for layer in _mimi_levels(quantizer):
            layer.codebook._embed = None  # a cached table, which may be on another device

    return Coder(
        kind="Mimi",
        sample_rate=config.sampling_rate,
        channels=config.audio_channels,
        hop=math.prod(config.upsampling_ratios) * stride,
        codebooks=config.num_quantizers,
        cardinality=config.codebook_size,
        margins=Margins(
            before=MIMI_ATTENTION_WINDOWS * math.ceil(config.sliding_window / stride) + MIMI_CONVOLUTIONS,
            after=0 if config.use_causal_conv else MIMI_CONVOLUTIONS,
        ),
        codebook=lambda level: _mimi_codebook(_mimi_levels(quantizer)[level].codebook),
        encode=encode,
        decode=decode,
        decode_each=None,
        prepare=prepare,
    )


def _mimi_levels(quantizer: Any) -> list[Any]:
    parts = (quantizer.semantic_residual_vector_quantizer, quantizer.acoustic_residual_vector_quantizer)
    return [layer for part in parts for layer in part.layers]


def _mimi_codebook(codebook: Any) -> Float[Tensor, "V E"]:
    """Return a codebook's table: moving sums divided by moving counts, on the CPU, so that a codec's identity does not
    depend on the device."""
    sums, counts = codebook.embed_sum.cpu(), codebook.cluster_usage.cpu()
    table: Tensor = sums / counts.clamp(min=codebook.epsilon)[:, None]
    return table
