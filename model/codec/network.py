"""The network of a new codec: transformers' `EncodecModel`, with plain or normalised weights, scaled to its sound."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import EncodecConfig, EncodecModel

from model.codec.config import CodecConfig


def new_network(config: CodecConfig, seed: int) -> EncodecModel:
    """Make an untrained EnCodec, with codebooks of zeros. The process's random state is left as it was.

    Raises:
        ValueError: a cardinality that is no power of two.
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
    """Return the kilobits a second by which transformers, which divides and rounds down, counts so many codebooks.

    Args:
        bits: of a code.
        frame_rate: frames a second, rounded up to a whole number as transformers does.
    """
    kilobits = codebooks * bits * frame_rate / 1000
    while kilobits * 1000 / (bits * frame_rate) < codebooks or 1000 * kilobits // (frame_rate * bits) < codebooks:
        kilobits = math.nextafter(kilobits, math.inf)
    return kilobits


def fold_weight_norm(network: EncodecModel) -> EncodecModel:
    """Replace normalised weights by plain ones, in place: the same function, faster."""
    for module in list(network.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    return network


@torch.no_grad()
def scale_activations(network: EncodecModel, wav: Float[Tensor, "B C N"]) -> None:
    """Scale every convolution, in order, so that it gives unit variance on `wav`, with no bias; and the last one so
    that the network's first outputs are as loud as `wav`. Expects plain weights (`fold_weight_norm`)."""

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


def plain_weights(network: EncodecModel) -> bool:
    """Tell whether the weight normalisation is folded away."""
    return not any(parametrize.is_parametrized(module, "weight") for module in network.modules())


def with_weight_norm(network: EncodecModel, state: Mapping[str, Tensor]) -> EncodecModel:
    """Make a new network, on the CPU, of the configuration of `network` and with the state; its weights are normalised,
    whether the state has them plain or not: direction as it is, and length."""
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
