"""Discriminators: equal to AudioCraft's numbers, of the published sizes, and each hears what it is meant to hear."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from model.codec.adversarial import Discriminators
from model.codec.config import (
    AdversarialConfig,
    PeriodDiscriminatorConfig,
    ScaleDiscriminatorConfig,
    SpectrogramDiscriminatorConfig,
)
from tests.worlds.discriminators import convolutions, discriminator_pack, fill, settings

SMALL = AdversarialConfig(
    spectrogram=SpectrogramDiscriminatorConfig(filters=4, ffts=(64, 32), hops=(16, 8), windows=(64, 32)),
    period=PeriodDiscriminatorConfig(periods=(2, 3), filters=(4, 8, 8)),
    scale=ScaleDiscriminatorConfig(scales=3, filters=4, strides=(4, 2), largest=16),
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_logits_and_feature_maps_equal_the_oracle(oracles: Path) -> None:
    pack = discriminator_pack(oracles)
    discriminators = Discriminators(1, settings(pack.facts, slice(None)), 0)
    fill(discriminators, pack, "weights.")
    for name in ("fake", "real"):
        outputs = discriminators(pack.tensors[name])["spectrogram"]
        assert len(outputs) == 3
        for i, output in enumerate(outputs):
            torch.testing.assert_close(output.logits, pack.tensors[f"{name}.logits.{i}"], rtol=1e-4, atol=1e-6)
            if name == "fake":
                assert len(output.features) == 5
                for j, feature in enumerate(output.features):
                    torch.testing.assert_close(feature, pack.tensors[f"fake.fmap.{i}.{j}"], rtol=1e-4, atol=1e-6)


def test_logits_of_stereo_equal_the_oracle(oracles: Path) -> None:
    pack = discriminator_pack(oracles)
    discriminators = Discriminators(2, settings(pack.facts, slice(2, 3)), 0)
    fill(discriminators, pack, "stereo.weights.")
    (output,) = discriminators(pack.tensors["stereo.in"])["spectrogram"]
    torch.testing.assert_close(output.logits, pack.tensors["stereo.logits.0"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("samples", [400, 401, 1003])
def test_every_discriminator_of_every_kind_answers_for_every_length(channels: int, samples: int) -> None:
    outputs = Discriminators(channels, SMALL, 0)(noise(3, channels, samples))
    assert {kind: len(found) for kind, found in outputs.items()} == {"spectrogram": 2, "period": 2, "scale": 3}
    for output in (one for found in outputs.values() for one in found):
        assert output.logits.shape[:2] == (3, 1)
        assert output.logits.isfinite().all()
        assert all(feature.shape[0] == 3 for feature in output.features)


def test_a_discriminator_of_a_period_convolves_only_samples_that_are_that_period_apart() -> None:
    wav = noise(1, 1, 300).requires_grad_()
    two, three = Discriminators(1, SMALL, 0)(wav)["period"]
    for output, period in ((two, 2), (three, 3)):
        (gradient,) = torch.autograd.grad(output.logits[0, 0, 5, 1], wav, retain_graph=True)
        places = gradient[0, 0].nonzero()[:, 0]
        assert len(places) > 5
        assert {int(place) % period for place in places} == {1}


def test_every_further_discriminator_of_a_scale_hears_half_the_rate_of_the_one_before() -> None:
    outputs = Discriminators(1, SMALL, 0)(noise(1, 1, 1024))["scale"]
    assert [output.features[0].shape[-1] for output in outputs] == [1024, 512, 256]
    high = torch.tensor([1.0, -1.0]).repeat(512)[None, None]
    heard = [output.features[0] for output in Discriminators(1, SMALL, 0)(high)["scale"]]
    inside = [(feature - feature.mean(-1, keepdim=True))[..., 16:-16].abs().max() for feature in heard]
    assert inside[0] > 100 * max(inside[1], inside[2])


def test_the_published_discriminators_have_the_published_layers() -> None:
    config = AdversarialConfig(period=PeriodDiscriminatorConfig(), scale=ScaleDiscriminatorConfig())
    kinds = Discriminators(1, config, 0).kinds
    assert [len(kinds[name]) for name in ("spectrogram", "period", "scale")] == [5, 5, 3]
    period = [(one.out_channels, one.kernel_size, one.stride) for one in convolutions(kinds["period"][0])]
    assert period == [
        *((32, (5, 1), (3, 1)), (128, (5, 1), (3, 1)), (512, (5, 1), (3, 1)), (1024, (5, 1), (3, 1))),
        *((1024, (5, 1), (1, 1)), (1, (3, 1), (1, 1))),
    ]
    scale = [
        (one.out_channels, one.kernel_size[0], one.stride[0], one.groups) for one in convolutions(kinds["scale"][0])
    ]
    assert scale == [
        *((16, 15, 1, 1), (64, 41, 4, 4), (256, 41, 4, 16), (1024, 41, 4, 64), (1024, 41, 4, 256)),
        *((1024, 5, 1, 1), (1, 3, 1, 1)),
    ]
    spectrogram = convolutions(kinds["spectrogram"][0])
    assert [one.dilation[0] for one in spectrogram] == [1, 1, 2, 4, 1, 1]
    assert [one.stride for one in spectrogram] == [(1, 1), (1, 2), (1, 2), (1, 2), (1, 1), (1, 1)]


def test_first_weights_depend_on_the_seed_alone_and_leave_the_process_its_own_draws() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    wav = noise(1, 1, 400)
    first, again, other = (Discriminators(1, SMALL, seed)(wav)["period"][0].logits for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_sound_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="the longest window, 64 samples, got 63"):
        Discriminators(1, SMALL, 0)(noise(1, 1, 63))


@pytest.mark.parametrize(("change", "message"), [
    ({"spectrogram": None}, "expected a discriminator"),
    ({"spectrogram": {"hops": (256,)}}, "one hop and one window for each FFT, got 5 FFTs, 1 hops and 5 windows"),
    ({"spectrogram": {"ffts": (64,), "hops": (16,), "windows": (128,)}}, "windows no longer than their FFTs"),
])  # fmt: skip
def test_discriminators_that_cannot_be_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AdversarialConfig.model_validate(change)
