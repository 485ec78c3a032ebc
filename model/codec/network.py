"""The network of a new codec: transformers' `EncodecModel`, with plain or normalised weights.

Its initial weights are scaled to the sound that it will learn, or make it a linear transform of that sound.
"""

import math
from collections.abc import Mapping
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import EncodecConfig, EncodecModel
from transformers.models.encodec.modeling_encodec import (
    EncodecConv1d,
    EncodecConvTranspose1d,
    EncodecLSTM,
    EncodecResnetBlock,
)

from model.codec.config import CodecConfig


def new_network(config: CodecConfig, seed: int) -> EncodecModel:
    """Return an untrained EnCodec, with codebooks of zeros. The global random state is not changed.

    Raises:
        ValueError: the cardinality is not a power of two.
    """
    bits = config.cardinality.bit_length() - 1
    if 2**bits != config.cardinality:
        raise ValueError(f"expected a power of two for cardinality, got {config.cardinality}")
    rate = math.ceil(config.sample_rate / config.hop)
    kilobits = [bandwidth_for(number, bits, rate) for number in (*config.bandwidths, config.codebooks)]
    settings = EncodecConfig(
        sampling_rate=config.sample_rate,
        audio_channels=config.channels,
        num_filters=config.filters,
        num_residual_layers=config.residual_layers,
        upsampling_ratios=list(config.ratios),
        hidden_size=config.width,
        num_lstm_layers=config.lstm_layers,
        use_causal_conv=config.causal,
        use_conv_shortcut=config.convolutional_shortcut,
        codebook_size=config.cardinality,
        target_bandwidths=kilobits,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return EncodecModel(settings)


def bandwidth_for(codebooks: int, bits: int, frame_rate: int) -> float:
    """Return the bandwidth, in kilobits a second, for which transformers uses `codebooks` codebooks.

    transformers divides the bandwidth by that of a codebook and rounds down, so the result is rounded up where needed.

    Args:
        bits: bits of a code.
        frame_rate: frames a second, rounded up to a whole number as transformers does.
    """
    kilobits = codebooks * bits * frame_rate / 1000
    while kilobits * 1000 / (bits * frame_rate) < codebooks or 1000 * kilobits // (frame_rate * bits) < codebooks:
        kilobits = math.nextafter(kilobits, math.inf)
    return kilobits


def fold_weight_norm(network: EncodecModel) -> EncodecModel:
    """Replace normalised weights by plain weights, in place: the network computes the same, faster."""
    for module in list(network.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    return network


def keep_geometry_on_host(network: EncodecModel) -> EncodecModel:
    """Move the sizes of convolutions, which transformers stores as buffers, back to the host, in place.

    Padding is computed from them in every call. On the device, each call would wait for it and could not be captured.
    """
    for module in network.modules():
        if isinstance(module, EncodecConv1d):
            convolution = module.conv
            stride, reach = convolution.stride[0], (convolution.kernel_size[0] - 1) * convolution.dilation[0] + 1
            sizes = {"stride": stride, "kernel_size": reach, "padding_total": reach - stride}
            for name, size in sizes.items():
                setattr(module, name, torch.tensor(size, dtype=torch.int64, device="cpu"))
    return network


@torch.no_grad()
def scale_activations(network: EncodecModel, wav: Float[Tensor, "B C N"]) -> None:
    """Set all biases to zero and scale the weights of every convolution, in order, so that its output on `wav` has unit
    variance; the last one so that the network's output is as loud as `wav`.

    The network must have plain weights (`fold_weight_norm`).
    """

    def rescaled(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        assert isinstance(module, nn.Conv1d | nn.ConvTranspose1d)
        assert module.bias is not None
        deviation = (output - module.bias[:, None]).std().clamp(min=1e-8)
        module.weight.div_(deviation)
        output = (output - module.bias[:, None]) / deviation
        module.bias.zero_()
        return output

    hooks = [
        module.register_forward_hook(rescaled)
        for module in network.modules()
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d)
    ]
    try:
        network.decoder(network.encoder(wav))
    finally:
        for hook in hooks:
            hook.remove()
    last = [module for module in network.decoder.modules() if isinstance(module, nn.Conv1d)][-1]
    last.weight.mul_(wav.std())


QUIET = 0.05
"""Root mean square of the first convolution's output in a network that starts as a transform."""

RESIDUAL_SHARE = 0.01
"""Factor of the initial weights at the end of a residual branch: nearly nothing, but the gradient has a direction."""


@torch.no_grad()
def start_as_transform(network: EncodecModel, wav: Float[Tensor, "B C N"], seed: int) -> None:
    """Set the weights so that the network begins as a linear transform codec: the encoder maps non-overlapping frames
    to their principal components (the Karhunen-Loève transform of this sound), and the decoder is its transpose.

    The central taps of each convolution become the principal components of its inputs (Krähenbühl et al.,
    arXiv:1511.06856, 3.1), rotated at random so that all channels carry a similar share. Recurrent layers and residual
    branches start near zero. The signal inside is so quiet that ELU is almost the identity. So the first latents
    already hold most of the sound, and distances between them are distances between waveforms; training has only the
    rest to learn. The network must have plain weights (`fold_weight_norm`).

    Args:
        wav: the sound whose components are computed; it should have many more frames than the bottleneck has channels.
        seed: seed of the rotations.
    """
    generator = torch.Generator().manual_seed(seed)
    encoder = [layer for layer in network.encoder.layers if isinstance(layer, EncodecConv1d)]
    decoder = [layer for layer in network.decoder.layers if isinstance(layer, EncodecConv1d | EncodecConvTranspose1d)]
    for module in network.modules():
        if isinstance(module, EncodecLSTM):
            _silence(module.lstm)
        elif isinstance(module, EncodecResnetBlock):
            _silence_branch(module)
    hidden = wav
    for layer in network.encoder.layers:
        if isinstance(layer, EncodecConv1d):
            index = encoder.index(layer)
            last = index == len(encoder) - 1
            taps = _components(layer, hidden, None if last else generator)
            # Quiet inside, but latents of unit variance on average, for which the weight of the commitment is meant.
            loudness = 1.0
            if index == 0 or last:
                outputs = _set_taps(layer, taps, hidden)
                loudness = float(outputs.square().mean().sqrt().clamp(min=1e-8)) / (1.0 if last else QUIET)
            hidden = _set_taps(layer, taps / loudness, hidden)
            _set_transpose(decoder[-1 - index], taps * loudness)
        else:
            hidden = layer(hidden)


def _components(
    layer: EncodecConv1d, inputs: Float[Tensor, "B I N"], generator: torch.Generator | None
) -> Float[Tensor, "O I r"]:
    """Return the principal components of a layer's inputs over as many steps as its stride, rotated at random if there
    is a generator."""
    stride, channels = layer.conv.stride[0], layer.conv.out_channels
    steps = inputs.shape[-1] // stride
    windows = inputs[..., : steps * stride].unfold(-1, stride, stride).permute(0, 2, 1, 3).flatten(0, 1).flatten(1)
    windows = windows.double()
    components = torch.linalg.eigh(windows.t() @ windows / len(windows)).eigenvectors.flip(1)[:, :channels].t()
    if len(components) < channels:  # more channels than inputs: zero rows; the columns stay orthonormal
        components = torch.cat([components, components.new_zeros(channels - len(components), components.shape[1])])
    if generator is not None:
        turn = torch.linalg.qr(torch.randn(channels, channels, generator=generator, dtype=torch.float64)).Q
        components = turn.to(components) @ components
    taps: Tensor = components.reshape(channels, inputs.shape[1], stride).to(inputs.dtype)
    return taps


def _set_taps(layer: EncodecConv1d, taps: Float[Tensor, "O I r"], inputs: Float[Tensor, "B I N"]) -> Tensor:
    """Set a layer's weights to these taps on the steps of a frame and to zeros around them, and its bias to zero;
    return its outputs."""
    total = int(layer.padding_total)
    first = total if layer.causal else total - total // 2
    layer.conv.weight.zero_()
    layer.conv.weight[..., first : first + taps.shape[-1]] = taps
    assert layer.conv.bias is not None
    layer.conv.bias.zero_()
    outputs: Tensor = layer(inputs)
    return outputs


def _set_transpose(layer: EncodecConv1d | EncodecConvTranspose1d, taps: Float[Tensor, "O I r"]) -> None:
    """Set a layer of the decoder to the transpose of the encoder's layer with these taps."""
    if isinstance(layer, EncodecConv1d):
        total = int(layer.padding_total)
        first, weight = total if layer.causal else total - total // 2, taps.transpose(0, 1)
    else:
        total = layer.conv.kernel_size[0] - layer.conv.stride[0]
        first, weight = 0 if layer.causal else total - total // 2, taps
    layer.conv.weight.zero_()
    layer.conv.weight[..., first : first + taps.shape[-1]] = weight
    assert layer.conv.bias is not None
    layer.conv.bias.zero_()


def _silence(lstm: nn.LSTM) -> None:
    """Set the weights and biases of every layer's cell inputs to zero, so that all outputs are zero."""
    cells = slice(2 * lstm.hidden_size, 3 * lstm.hidden_size)  # gates in order: input, forget, cell, output
    for value in lstm.parameters():
        value[cells] = 0.0


def _silence_branch(block: EncodecResnetBlock) -> None:
    """Make a residual block almost the identity."""
    last = cast(EncodecConv1d, block.block[-1]).conv
    assert last.bias is not None
    last.weight.mul_(RESIDUAL_SHARE)
    last.bias.zero_()
    if isinstance(block.shortcut, EncodecConv1d):
        assert block.shortcut.conv.bias is not None
        nn.init.dirac_(block.shortcut.conv.weight)
        block.shortcut.conv.bias.zero_()


def with_weight_norm(network: EncodecModel, state: Mapping[str, Tensor]) -> EncodecModel:
    """Return a new network, on the CPU, with the configuration of `network`, the given state, and normalised weights.

    Plain weights in the state are split into length and direction.
    """
    values = {name: value.detach().cpu().clone() for name, value in state.items()}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d) and f"{name}.weight" in values:
            weight = values.pop(f"{name}.weight")
            length = weight.square().sum(dim=tuple(range(1, weight.ndim)), keepdim=True).sqrt()
            values[f"{name}.parametrizations.weight.original0"] = length
            values[f"{name}.parametrizations.weight.original1"] = weight
    copy = EncodecModel(network.config)
    copy.load_state_dict(values)
    return copy
