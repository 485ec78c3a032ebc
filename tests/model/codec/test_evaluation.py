"""Fidelity of decoded sound; and the plain scalar codec, for which more bits never mean worse sound."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from model.codec.evaluation import MU, ScalarCoded, evaluate_scalar_codec, fidelity, quantise, scalar_coded
from model.codec.losses import si_snr


def test_fidelity_of_a_known_error_has_the_expected_values() -> None:
    generator = torch.Generator().manual_seed(0)
    original = torch.randn(1, 2, 16_000, generator=generator)
    error = torch.randn(1, 2, 16_000, generator=generator)
    found = fidelity(original + 0.1 * error, original, 16_000)
    assert found.si_snr == pytest.approx(20, abs=0.2)
    perfect = fidelity(original, original, 16_000)
    assert perfect.log_mel_distance == perfect.multi_scale_mel_distance == 0
    # A tenth of the amplitude is 20 dB less in every band; SI-SNR does not depend on the gain.
    softer = fidelity(0.1 * original, original, 16_000)
    assert softer.si_snr > 100
    assert softer.log_mel_distance == pytest.approx(20, abs=0.1)


def test_a_silent_channel_is_left_out_of_si_snr() -> None:
    sound = torch.randn(1, 1, 8_000, generator=torch.Generator().manual_seed(1))
    silence = torch.zeros_like(sound)
    both = fidelity(torch.cat([sound, silence], 1) + 0.01, torch.cat([sound, silence], 1), 16_000)
    assert both.si_snr == pytest.approx(fidelity(sound + 0.01, sound, 16_000).si_snr)
    assert math.isnan(fidelity(silence, silence, 16_000).si_snr)


SAMPLE_RATE = 16_000


def music(seed: int, channels: int = 1, seconds: float = 2.0) -> Tensor:
    """Decaying tones over soft noise: [C, N]."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    hertz = 110 * 2 ** (3 * torch.rand(channels, 4, 1, generator=generator))
    tones = (torch.sin(2 * math.pi * hertz * time) * torch.exp(-time)).sum(1)
    return 0.1 * tones + 0.003 * torch.randn(tones.shape, generator=generator)


def ratio(coded: ScalarCoded, wav: Tensor) -> float:
    return float(si_snr(coded.sound, wav).mean())


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("budget", [26, 500, 3_200, 12_801, 1_000_000])
def test_the_scalar_codec_takes_at_most_the_bits_of_its_budget(budget: int, channels: int) -> None:
    wav = music(0, channels)
    coded = scalar_coded(wav, budget)
    assert coded.bits <= budget
    assert coded.bits - 24 == coded.samples * coded.depth * channels
    assert coded.samples <= wav.shape[1]
    assert coded.sound.shape == wav.shape


def test_the_decoded_sound_holds_no_more_values_than_its_bits_pay_for() -> None:
    wav = music(1)
    coded = scalar_coded(wav, 3_200)
    spectrum = torch.fft.rfft(coded.sound)[0]
    # A band-limited sound: it has only as many frequencies as samples were sent, so those samples determine it.
    assert spectrum[(coded.samples + 1) // 2 :].abs().max() < 1e-3 * spectrum.abs().max()
    few = torch.fft.irfft(spectrum[: coded.samples // 2 + 1], coded.samples)
    assert len(few) * coded.depth <= 3_200


@pytest.mark.parametrize("seed", [2, 3])
def test_twice_the_bits_give_a_better_si_snr(seed: int) -> None:
    wav = music(seed)
    found = [ratio(scalar_coded(wav, budget), wav) for budget in (800, 1_600, 3_200, 6_400, 12_800, 25_600, 200_000)]
    assert all(more > less for less, more in pairwise(found))
    assert found[-1] > 30


@pytest.mark.parametrize("mu", [0.0, MU])
def test_one_more_bit_a_sample_halves_the_error_and_doubles_the_number_of_levels(mu: float) -> None:
    values = torch.linspace(-1, 1, 100_001)
    errors = []
    for depth in range(1, 9):
        rounded = quantise(values, depth, mu)
        assert len(rounded.unique()) == 2**depth
        assert rounded.abs().max() < 1
        torch.testing.assert_close(quantise(rounded, depth, mu), rounded)
        errors.append(float((rounded - values).abs().mean()))
    assert all(0.4 < more / less < 0.62 for less, more in pairwise(errors[2:]))


def test_the_mu_law_rounds_quiet_samples_better_and_loud_ones_worse() -> None:
    quiet, loud = torch.linspace(-0.01, 0.01, 101), torch.linspace(0.8, 0.99, 101)
    for values, mu_is_better in ((quiet, True), (loud, False)):
        even, mu = ((quantise(values, 6, law) - values).square().mean() for law in (0.0, MU))
        assert bool(mu < even) == mu_is_better


def test_values_beyond_full_scale_become_the_outermost_level() -> None:
    assert quantise(torch.tensor([-7.0, 7.0]), 2).tolist() == [-0.75, 0.75]


def test_the_depth_in_bits_is_chosen_to_suit_the_sound() -> None:
    """For noise of every frequency, many coarse samples are best; for a slow tone, a few fine ones."""
    noise = torch.randn(1, 8_000, generator=torch.Generator().manual_seed(0))
    slow = torch.sin(2 * math.pi * 3 * torch.arange(8_000) / 8_000)[None]
    assert scalar_coded(noise, 8_024).depth == 1
    assert scalar_coded(slow, 8_024).depth >= 10


def test_the_gain_of_a_recording_and_a_silent_channel_do_not_spoil_the_coding() -> None:
    wav = music(4)
    coded = scalar_coded(wav, 3_200)
    louder = scalar_coded(8 * wav, 3_200)
    torch.testing.assert_close(louder.sound, 8 * coded.sound, rtol=1e-3, atol=1e-3)
    sided = scalar_coded(torch.cat([wav, torch.zeros_like(wav)]), 6_400 - 24)
    assert sided.sound.isfinite().all()
    assert float(si_snr(sided.sound[0], wav[0])) > 3


def test_fidelity_over_recordings_is_the_mean_at_a_bit_rate_within_the_limit() -> None:
    recordings = [music(seed, seconds=seconds)[None] for seed, seconds in ((5, 0.5), (6, 1.33), (7, 2.0))]
    quality = evaluate_scalar_codec(recordings, SAMPLE_RATE, 1.6)
    assert 1.5 < quality.bit_rate <= 1.6
    alone = [evaluate_scalar_codec([wav], SAMPLE_RATE, 1.6).fidelity.si_snr for wav in recordings]
    assert quality.fidelity.si_snr == pytest.approx(sum(alone) / 3)
    assert (
        evaluate_scalar_codec(recordings, SAMPLE_RATE, 6.4).fidelity.log_mel_distance
        < quality.fidelity.log_mel_distance
    )


def test_too_few_bits_and_an_empty_list_of_recordings_are_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 26 bits for 2 channels, got 25"):
        scalar_coded(music(8, 2), 25)
    with pytest.raises(ValueError, match="expected recordings to evaluate a codec on, got none"):
        evaluate_scalar_codec([], SAMPLE_RATE, 1.6)
