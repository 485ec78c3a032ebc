"""Small codecs of random weights and every kind, whose codes differ from frame to frame."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import DacConfig, DacModel, EncodecModel, MimiConfig, MimiModel

from model.codec.coders import CodecNetwork
from model.codec.config import CodecConfig
from model.codec.network import fold_weight_norm, new_network, scale_activations

RATE = 8_000
LEVELS, CARDINALITY = 3, 16
HOPS = {"encodec": 80, "dac": 80, "mimi": 160}


def sound(samples: int, channels: int = 1, seed: int = 3) -> Tensor:
    """A gliding tone in noise, [C, N]."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(samples) / RATE
    noise = torch.randn(channels, samples, generator=generator)
    return 0.2 * torch.sin(2 * math.pi * (200 + 40 * torch.sin(2 * time)) * time) + 0.02 * noise


def small_codec(kind: str, seed: int = 0) -> CodecNetwork:
    """An EnCodec, DAC or Mimi for mono at 8 kHz."""
    if kind == "encodec":
        return small_encodec(seed)
    return small_dac(seed=seed) if kind == "dac" else small_mimi(seed=seed)


@contextmanager
def _drawn_from(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        yield


def small_encodec(seed: int = 0) -> EncodecModel:
    settings = CodecConfig(
        sample_rate=RATE,
        filters=4,
        ratios=(4, 5, 4),
        width=16,
        lstm_layers=1,
        codebooks=LEVELS,
        cardinality=CARDINALITY,
    )
    made = fold_weight_norm(new_network(settings, seed))
    scale_activations(made, sound(RATE)[None])
    with _drawn_from(seed):
        for layer in made.quantizer.layers:
            layer.codebook.embed.normal_()
    return made.eval()


def small_dac(strides: tuple[int, ...] = (2, 5, 8), seed: int = 0) -> DacModel:
    """A DAC with an odd stride, like those published for 16 and 24 kHz."""
    with _drawn_from(seed):
        made = DacModel(
            DacConfig(
                sampling_rate=RATE,
                encoder_hidden_size=4,
                decoder_hidden_size=32,
                downsampling_ratios=list(strides),
                n_codebooks=LEVELS,
                codebook_size=CARDINALITY,
                codebook_dim=4,
            )
        )
        _enliven(made)
        for name, weight in made.named_parameters():
            if "res_unit" in name and "conv2.weight" in name:
                weight.mul_(0.2)  # otherwise what the units add to their input grows with each, and rounding with it
        residual = made.encoder(_loud_and_soft())
        for layer in made.quantizer.quantizers:
            layer.codebook.weight.copy_(_some(layer.in_proj(residual)))
            residual = residual - layer(residual)[0]
    return made.eval()


def small_mimi(
    layers: int = 2, sliding_window: int = 20, causal: bool = True, channels: int = 1, seed: int = 0
) -> MimiModel:
    """A Mimi with sharp attention: with untrained weights attention would be nearly a mean, which depends little on any
    frame."""
    with _drawn_from(seed):
        made = MimiModel(
            MimiConfig(
                sampling_rate=RATE,
                audio_channels=channels,
                hidden_size=16,
                num_filters=4,
                upsampling_ratios=[5, 4, 4],
                use_causal_conv=causal,
                codebook_size=CARDINALITY,
                codebook_dim=8,
                vector_quantization_hidden_dimension=8,
                num_quantizers=LEVELS,
                upsample_groups=16,
                num_hidden_layers=layers,
                num_attention_heads=2,
                num_key_value_heads=2,
                head_dim=8,
                intermediate_size=32,
                sliding_window=sliding_window,
                layer_scale_initial_scale=0.5,
            )
        )
        _enliven(made)
        latents = made.encoder(_loud_and_soft(channels)).latents
        for part in (
            made.quantizer.semantic_residual_vector_quantizer,
            made.quantizer.acoustic_residual_vector_quantizer,
        ):
            residual = part.input_proj(latents)
            for layer in part.layers:
                layer.codebook.embed_sum.copy_(3 * _some(residual))
                layer.codebook.cluster_usage.fill_(3.0)
                residual = residual - layer.decode(layer.encode(residual))
                layer.codebook._embed = None
    return made.eval()


def _loud_and_soft(channels: int = 1) -> Tensor:
    wav = sound(4 * RATE, channels, seed=7)
    return (wav * torch.rand(4 * RATE // 400).repeat_interleave(400))[None]


def _some(latents: Tensor) -> Tensor:
    """Latents of as many frames as there are codes [V, E], so that a codebook is near them."""
    return latents[0, :, torch.randperm(latents.shape[-1])[:CARDINALITY]].T


def _enliven(network: nn.Module) -> None:
    """Set weights that keep a signal at about its loudness."""
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d | nn.Linear):
            inputs = module.weight[0].numel()
            if isinstance(module, nn.ConvTranspose1d):
                inputs = module.weight.shape[0] // module.groups * module.kernel_size[0] // module.stride[0]
            module.weight.normal_(std=inputs**-0.5)
            if module.bias is not None:
                module.bias.normal_(std=0.05)
