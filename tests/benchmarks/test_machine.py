"""Processors by their common names."""

import pytest

from tests.benchmarks.machine import zen_generation


@pytest.mark.parametrize(
    ("vendor", "family", "model", "generation"),
    [
        ("AuthenticAMD", 0x1A, 0x02, "Zen 5"),
        ("AuthenticAMD", 0x19, 0x11, "Zen 4"),
        ("AuthenticAMD", 0x19, 0xA0, "Zen 4"),
        ("AuthenticAMD", 0x19, 0x01, "Zen 3"),
        ("AuthenticAMD", 0x17, 0x31, None),
        ("GenuineIntel", 6, 143, None),
    ],
)
def test_the_zen_generation_follows_from_family_and_model(vendor, family, model, generation):
    assert zen_generation(vendor, family, model) == generation
