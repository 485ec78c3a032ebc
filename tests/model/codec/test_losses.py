"""Losses and their balancer equal AudioCraft's numbers; the reported figures have their stated meaning."""

import json
import math
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from model.codec.config import BalancerConfig, CodecTrainingConfig, SiSnrLossConfig, SpectralLossConfig, StftLossConfig
from model.codec.losses import (
    Balancer,
    MelSpectrogram,
    MultiResolutionStftLoss,
    MultiScaleSpectralLoss,
    ReconstructionLosses,
    SiSnrLoss,
    log_mel_distance,
    multi_scale_mel_distance,
    si_snr,
    weighted_sum,
)
from tests.worlds.oracles import Pack, read_pack


def chord(seed: int) -> Tensor:
    """Two tones with a little noise [1, 1, 4000]."""
    generator, time = torch.Generator().manual_seed(seed), torch.arange(4_000) / 8_000
    pitches = 110 * 2 ** (2 * torch.rand(2, 1, generator=generator))
    tones = torch.sin(2 * math.pi * pitches * time).sum(0) + 0.05 * torch.randn(4_000, generator=generator)
    return 0.2 * tones[None, None]


def only(name: str) -> ReconstructionLosses:
    """One loss alone, with windows that fit into a short sound."""
    others = {f"{one}_weight": float(one == name) for one in ("waveform", "spectral", "stft", "si_snr")}
    config = CodecTrainingConfig(
        spectral=SpectralLossConfig(range_end=10),
        stft=StftLossConfig(ffts=(256, 512), hops=(64, 128), windows=(200, 400)),
        si_snr=SiSnrLossConfig(segment=0.2),
        **others,
    )
    return ReconstructionLosses(8_000, config)


def cases(oracles: Path) -> dict[str, dict]:
    return {case["name"]: case for case in json.loads((oracles / "spectral_losses.json").read_text())["cases"]}


def mel_spectrogram(case: dict, window: int, hop: int) -> MelSpectrogram:
    """The features of one case of the pack."""
    lowest, highest = case["f_min"], case["f_max"]
    return MelSpectrogram(case["sample_rate"], window, hop, case["n_mels"], lowest, highest, case["floor_level"])


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


def test_mel_features_of_the_largest_scale_equal_the_oracle(oracles: Path) -> None:
    case, pack = cases(oracles)["msspec_alpha"], load_file(oracles / "spectral_losses.safetensors")
    window = 2 ** (case["range_end"] - 1)
    linear, logarithm = mel_spectrogram(case, window, window // 4)(pack["pred"])
    torch.testing.assert_close(linear, pack["wrapper_last_scale.linear"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logarithm, pack["wrapper_last_scale.log10"], rtol=1e-4, atol=1e-5)


def test_the_distance_of_mel_features_equals_the_oracle(oracles: Path) -> None:
    case, pack = cases(oracles)["mel_l1"], load_file(oracles / "spectral_losses.safetensors")
    mel = mel_spectrogram(case, case["n_fft"], case["hop_length"])
    distance = (mel(pack["pred"])[1] - mel(pack["target"])[1]).abs().mean()
    torch.testing.assert_close(distance, pack["mel_l1.loss"].squeeze(), rtol=1e-4, atol=0)


def test_the_multi_resolution_stft_loss_equals_the_oracle(oracles: Path) -> None:
    case, pack = cases(oracles)["mrstft"], load_file(oracles / "spectral_losses.safetensors")
    config = StftLossConfig(
        ffts=tuple(case["n_ffts"]),
        hops=tuple(case["hop_lengths"]),
        windows=tuple(case["win_lengths"]),
        convergence=case["factor_sc"],
        magnitude=case["factor_mag"],
    )
    loss = MultiResolutionStftLoss(config)(pack["pred"], pack["target"])
    torch.testing.assert_close(loss, pack["mrstft.loss"].squeeze(), rtol=1e-4, atol=0)


def test_the_si_snr_loss_equals_the_oracle(oracles: Path) -> None:
    case, pack = cases(oracles)["sisnr"], load_file(oracles / "spectral_losses.safetensors")
    loss = SiSnrLoss(case["sample_rate"], SiSnrLossConfig(segment=case["segment"], overlap=case["overlap"]))
    torch.testing.assert_close(loss(pack["pred"], pack["target"]), pack["sisnr.loss"], rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["stft", "si_snr"])
def test_gradients_missing_from_the_pack_equal_finite_differences(name: str) -> None:
    made, true = chord(0).double().requires_grad_(), chord(1).double()
    loss = only(name).double()
    loss(made, true)[name].backward()
    direction = torch.randn(made.shape, generator=torch.Generator().manual_seed(2)).double()
    step = 1e-9 * direction  # magnitudes have a floor, which is a corner
    with torch.no_grad():
        slope = (loss(made + step, true)[name] - loss(made - step, true)[name]) / 2e-9
    assert float((made.grad * direction).sum()) == pytest.approx(float(slope), rel=1e-4)


@pytest.mark.parametrize("name", ["waveform", "spectral", "stft", "si_snr"])
def test_every_loss_is_smallest_for_equal_sounds_and_has_a_finite_gradient_in_silence(name: str) -> None:
    true, loss = chord(0), only(name)
    assert loss(true, true)[name] < loss(0.9 * chord(1), true)[name]
    assert loss(true, true)[name] <= loss(true + 0.01 * chord(1), true)[name]
    silence = torch.zeros_like(true).requires_grad_()
    loss(silence, torch.zeros_like(true))[name].backward()
    assert silence.grad.isfinite().all()


def test_a_loss_of_weight_0_is_not_computed_and_a_training_without_losses_is_refused() -> None:
    assert set(ReconstructionLosses(8_000, CodecTrainingConfig()).weights) == {"waveform", "spectral"}
    with pytest.raises(ValidationError, match="at least one loss of the reconstruction with a weight above 0"):
        CodecTrainingConfig(waveform_weight=0.0, spectral_weight=0.0)


def test_the_multi_scale_mel_distance_counts_decibels_and_sees_a_shift_at_several_scales() -> None:
    noise = torch.randn(1, 1, 32_000, generator=torch.Generator().manual_seed(0)) * 0.3
    assert float(multi_scale_mel_distance(noise, noise, 16_000)) == 0
    # At the smallest scales some bands are empty, as published, and count as equal.
    assert 4.5 < float(multi_scale_mel_distance(noise / 2, noise, 16_000)) < 6.03
    click = torch.zeros(1, 1, 32_000)
    click[..., 16_000] = 1.0
    later = click.roll(100)
    long, short = (float(log_mel_distance(later, click, 16_000, window)) for window in (1024, 64))
    several = float(multi_scale_mel_distance(later, click, 16_000))
    assert several > 0
    assert long != pytest.approx(short, rel=0.1)


def test_si_snr_is_the_ratio_to_the_added_noise_at_any_gain() -> None:
    time = torch.arange(16_000) / 16_000
    tone, other = torch.sin(2 * math.pi * 440 * time), torch.sin(2 * math.pi * 1000 * time)
    noisy = tone + 0.1 * other
    assert float(si_snr(noisy, tone)) == pytest.approx(20.0, abs=0.01)
    assert float(si_snr(0.3 * noisy + 0.2, tone)) == pytest.approx(20.0, abs=0.01)
    assert float(si_snr(other, tone)) < -60


def test_log_mel_distance_ignores_phase_and_counts_decibels_of_gain() -> None:
    noise = torch.randn(1, 1, 32_000, generator=torch.Generator().manual_seed(0)) * 0.3
    assert float(log_mel_distance(noise, noise, 16_000)) == 0
    assert float(log_mel_distance(-noise, noise, 16_000)) == 0
    assert float(log_mel_distance(noise / 2, noise, 16_000)) == pytest.approx(6.02, abs=0.01)


def test_a_loss_without_scales_is_refused() -> None:
    with pytest.raises(ValueError, match="range_start < range_end, got 9 and 9"):
        MultiScaleSpectralLoss(16_000, SpectralLossConfig(range_start=9, range_end=9))


WEIGHTS = {"loud": 1.0, "quiet": 3.0}


def losses_of(pack: Pack, sound: Tensor) -> dict[str, Tensor]:
    """The losses that the pack's JSON describes."""
    a, b, w = (pack.tensors[name] for name in "abw")
    return {
        "l1": (sound - a).abs().mean(),
        "mse": 50 * (sound - b).square().mean(),
        "lin": 0.001 * (sound * w).sum(),
    }


def noise(seed: int) -> Tensor:
    return torch.randn(3, 1, 50, generator=torch.Generator().manual_seed(seed))


def two_losses(sound: Tensor, seed: int = 9) -> dict[str, Tensor]:
    return {"loud": 1e4 * (sound * noise(seed)).sum(), "quiet": 1e-4 * (sound * noise(seed + 1)).sum()}


@pytest.mark.parametrize("name", ["default", "ema05", "nobatch"])
def test_four_steps_equal_the_oracle(oracles: Path, name: str) -> None:
    pack = read_pack(oracles, "balancer")
    (case,) = [one for one in pack.cases if one["name"] == name]
    config = BalancerConfig(
        total_norm=case["total_norm"],
        decay=case["ema_decay"],
        per_item=case["per_batch_item"],
        epsilon=case["epsilon"],
    )
    balancer = Balancer(case["weights"], config)
    for step in range(4):
        sound = pack.tensors[f"y{step}"].clone().requires_grad_()
        balanced = balancer(losses_of(pack, sound), sound)
        prefix = f"{name}.step{step}"
        torch.testing.assert_close(balanced.loss, pack.tensors[f"{prefix}.effective_loss"], rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(balanced.gradient, pack.tensors[f"{prefix}.grad"], rtol=1e-4, atol=1e-7)
        for one, share in balanced.shares.items():
            wanted = pack.tensors[f"{prefix}.ratio_{one}"]
            torch.testing.assert_close(share.to(wanted.dtype), wanted, rtol=1e-4, atol=0)


def test_the_plain_sum_equals_the_oracle_without_a_balance(oracles: Path) -> None:
    pack = read_pack(oracles, "balancer")
    (case,) = [one for one in pack.cases if not one["balance_grads"]]
    for step in range(4):
        sound = pack.tensors[f"y{step}"].clone().requires_grad_()
        loss = weighted_sum(losses_of(pack, sound), case["weights"])
        loss.backward()
        wanted = pack.tensors[f"nobalance.step{step}.effective_loss"]
        torch.testing.assert_close(loss.detach(), wanted, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(sound.grad, pack.tensors[f"nobalance.step{step}.grad"], rtol=1e-4, atol=1e-7)


def test_a_weight_is_the_share_of_the_gradient_whatever_the_size_of_the_loss() -> None:
    sound = noise(0).requires_grad_()
    balancer = Balancer(WEIGHTS, BalancerConfig(per_item=False, total_norm=2.0))
    balanced = balancer(two_losses(sound), sound)
    loud, quiet = noise(9) / noise(9).norm(), noise(10) / noise(10).norm()
    torch.testing.assert_close(balanced.gradient, 2.0 * (0.25 * loud + 0.75 * quiet))


def test_the_norm_is_averaged_so_a_sudden_large_gradient_stays_large() -> None:
    balancer = Balancer(WEIGHTS, BalancerConfig(decay=0.9))
    sound = noise(0).requires_grad_()
    for _ in range(20):
        usual = balancer(two_losses(sound), sound).gradient.norm()
    losses = {name: 10 * loss for name, loss in two_losses(sound).items()}
    assert 4 * usual < balancer(losses, sound).gradient.norm() < 10 * usual


def test_a_gradient_that_is_not_finite_does_not_spoil_the_averages() -> None:
    balancer = Balancer(WEIGHTS, BalancerConfig())
    sound = noise(0).requires_grad_()
    before = balancer(two_losses(sound), sound).gradient
    broken = two_losses(sound)
    broken["loud"] = broken["loud"] * float("nan")
    assert not balancer(broken, sound).gradient.isfinite().all()
    torch.testing.assert_close(balancer(two_losses(sound), sound).gradient, before)


def test_a_loaded_state_restores_the_averages_bit_for_bit() -> None:
    def last(balancer: Balancer, steps: range) -> Tensor:
        for step in steps:
            sound = noise(step).requires_grad_()
            found = balancer(two_losses(sound, seed=20 + step), sound).gradient
        return found

    undisturbed, first, second = (Balancer(WEIGHTS, BalancerConfig(decay=0.5)) for _ in range(3))
    expected = last(undisturbed, range(4))
    last(first, range(2))
    second.load(first.state())
    assert torch.equal(last(second, range(2, 4)), expected)
    with pytest.raises(ValueError, match="expected the averages of 1 losses, got 2"):
        Balancer({"one": 1.0}, BalancerConfig()).load(first.state())


def test_losses_that_do_not_match_the_weights_are_refused() -> None:
    sound = noise(0).requires_grad_()
    with pytest.raises(ValueError, match=r"expected the losses \['loud', 'quiet'\], got \['loud'\]"):
        Balancer(WEIGHTS, BalancerConfig())({"loud": sound.sum()}, sound)
    with pytest.raises(ValueError, match="weights above 0"):
        Balancer({"loud": 0.0}, BalancerConfig())
