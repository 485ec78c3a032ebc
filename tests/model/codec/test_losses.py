"""Spectral losses equal AudioCraft's numbers; the reported figures mean what they say."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.codec.configuration import SpectralLossConfig
from model.codec.losses import MelSpectrogram, MultiScaleSpectralLoss, log_mel_distance, si_snr


def cases(oracles: Path) -> dict[str, dict]:
    return {case["name"]: case for case in json.loads((oracles / "spectral_losses.json").read_text())["cases"]}


@pytest.mark.parametrize("name", ["msspec_norm_noalpha", "msspec_alpha"])
def test_the_multi_scale_loss_and_its_gradient_equal_the_oracle(oracles: Path, name: str) -> None:
    case, pack = cases(oracles)[name], load_file(oracles / "spectral_losses.safetensors")
    config = SpectralLossConfig(
        range_start=case["range_start"],
        range_end=case["range_end"],
        mel_bands=case["n_mels"],
        lowest_frequency=case["f_min"],
        highest_frequency=case["f_max"],
        floor=case["floor_level"],
        normalized=case["normalized"],
        weighted_logarithm=case["alphas"],
    )
    made = pack["pred"].clone().requires_grad_()
    loss = MultiScaleSpectralLoss(case["sample_rate"], config)(made, pack["target"])
    loss.backward()
    torch.testing.assert_close(loss.detach(), pack[f"{name}.loss"], rtol=1e-4, atol=0)
    wanted = pack[f"{name}.grad"]
    torch.testing.assert_close(made.grad, wanted, rtol=1e-3, atol=float(wanted.abs().max()) * 1e-4)


def test_mel_features_and_their_distance_equal_the_oracle(oracles: Path) -> None:
    case, pack = cases(oracles)["mel_l1"], load_file(oracles / "spectral_losses.safetensors")
    mel = MelSpectrogram(
        case["sample_rate"], case["n_fft"], case["hop_length"], case["n_mels"], case["f_min"], None, case["floor_level"]
    )
    linear, logarithm = mel(pack["pred"])
    torch.testing.assert_close(linear, pack["wrapper_last_scale.linear"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logarithm, pack["wrapper_last_scale.log10"], rtol=1e-4, atol=1e-5)
    distance = (logarithm - mel(pack["target"])[1]).abs().mean()
    torch.testing.assert_close(distance, pack["mel_l1.loss"].squeeze(), rtol=1e-4, atol=0)


def test_si_snr_is_the_ratio_of_the_noise_that_was_added_whatever_the_gain() -> None:
    time = torch.arange(16_000) / 16_000
    tone, other = torch.sin(2 * math.pi * 440 * time), torch.sin(2 * math.pi * 1000 * time)
    noisy = tone + 0.1 * other
    assert float(si_snr(noisy, tone)) == pytest.approx(20.0, abs=0.01)
    assert float(si_snr(0.3 * noisy + 0.2, tone)) == pytest.approx(20.0, abs=0.01)
    assert float(si_snr(other, tone)) < -60


def test_log_mel_distance_forgives_phase_and_counts_decibels_of_gain() -> None:
    noise = torch.randn(1, 1, 32_000, generator=torch.Generator().manual_seed(0)) * 0.3
    assert float(log_mel_distance(noise, noise, 16_000)) == 0
    assert float(log_mel_distance(-noise, noise, 16_000)) == 0
    assert float(log_mel_distance(noise / 2, noise, 16_000)) == pytest.approx(6.02, abs=0.01)


def test_a_loss_without_scales_is_refused() -> None:
    with pytest.raises(ValueError, match="range_start < range_end, got 9 and 9"):
        MultiScaleSpectralLoss(16_000, SpectralLossConfig(range_start=9, range_end=9))
