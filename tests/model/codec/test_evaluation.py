"""How near decoded sound is to the original."""

import math

import pytest
import torch

from model.codec.evaluation import fidelity


def test_the_figures_of_a_known_error_are_known() -> None:
    generator = torch.Generator().manual_seed(0)
    original = torch.randn(1, 2, 16_000, generator=generator)
    error = torch.randn(1, 2, 16_000, generator=generator)
    found = fidelity(original + 0.1 * error, original, 16_000)
    assert found.si_snr == pytest.approx(20, abs=0.2)
    perfect = fidelity(original, original, 16_000)
    assert perfect.log_mel_distance == perfect.multi_scale_mel_distance == 0
    # A tenth of the amplitude is 20 dB less in every band; the ratio does not hear it.
    softer = fidelity(0.1 * original, original, 16_000)
    assert softer.si_snr > 100
    assert softer.log_mel_distance == pytest.approx(20, abs=0.1)


def test_a_silent_side_has_no_part_in_the_ratio() -> None:
    sound = torch.randn(1, 1, 8_000, generator=torch.Generator().manual_seed(1))
    silence = torch.zeros_like(sound)
    both = fidelity(torch.cat([sound, silence], 1) + 0.01, torch.cat([sound, silence], 1), 16_000)
    assert both.si_snr == pytest.approx(fidelity(sound + 0.01, sound, 16_000).si_snr)
    assert math.isnan(fidelity(silence, silence, 16_000).si_snr)
