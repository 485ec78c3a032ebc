"""A codec's network before its first step."""

import pytest
import torch
from torch import Tensor

from model.codec.config import CodecConfig
from model.codec.losses import si_snr
from model.codec.network import fold_weight_norm, new_network, scale_activations, start_as_transform

SIZES = {"sample_rate": 8_000, "filters": 6, "ratios": (4, 5, 2), "width": 32, "lstm_layers": 1, "cardinality": 16}


def coloured(items: int = 12, seed: int = 0) -> Tensor:
    """Noise [B, 1, 4000] with most of its energy at low frequencies, as in music."""
    noise = torch.randn(items, 1, 4_000, generator=torch.Generator().manual_seed(seed))
    spectrum = torch.fft.rfft(noise)
    hertz = torch.linspace(0, 4_000, spectrum.shape[-1])
    sound: Tensor = torch.fft.irfft(spectrum / (1 + (hertz / 400) ** 2), 4_000)
    return 0.1 * sound / sound.std()


@pytest.mark.parametrize("kind", [{}, {"causal": True}, {"convolutional_shortcut": True}, {"residual_layers": 2}])
@torch.no_grad()
def test_a_network_started_as_a_transform_reconstructs_sound_before_any_step(kind: dict[str, bool | int]) -> None:
    network = fold_weight_norm(new_network(CodecConfig.model_validate(SIZES | kind), 0))
    unseen = coloured(seed=1)
    scale_activations(network, coloured())
    assert si_snr(network.decoder(network.encoder(unseen)), unseen).mean() < 0
    start_as_transform(network, coloured(), 0)
    latents = network.encoder(unseen)
    # Frames of 40 samples become 32 numbers: only the weakest components are lost.
    assert si_snr(network.decoder(latents), unseen).mean() > 15
    assert latents.square().mean().sqrt() == pytest.approx(1.0, abs=0.1)


@torch.no_grad()
def test_distances_between_latents_are_proportional_to_those_between_sounds() -> None:
    network = fold_weight_norm(new_network(CodecConfig.model_validate(SIZES), 0))
    start_as_transform(network, coloured(), 0)
    sounds = coloured(seed=2)
    latents = network.encoder(sounds)
    between_sounds, between_latents = (
        (each - each.roll(1, 0)).square().sum((1, 2)).sqrt() for each in (sounds, latents)
    )
    ratios = between_latents / between_sounds
    assert ratios.std() / ratios.mean() < 0.02


@torch.no_grad()
def test_a_transform_depends_on_its_seed() -> None:
    weights = []
    for seed in (0, 0, 1):
        network = fold_weight_norm(new_network(CodecConfig.model_validate(SIZES), 0))
        start_as_transform(network, coloured(), seed)
        weights.append(network.state_dict()["encoder.layers.0.conv.weight"].clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
