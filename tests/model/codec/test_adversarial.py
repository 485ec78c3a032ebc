"""Discriminators and their losses: AudioCraft's numbers and gradients, published sizes, and where gradients flow."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from model.codec.adversarial import AdversarialTraining, Discriminators, discriminator_loss
from model.codec.config import (
    AdversarialConfig,
    PeriodDiscriminatorConfig,
    ScaleDiscriminatorConfig,
    SpectrogramDiscriminatorConfig,
)
from model.kernels.processor import multiplies_bfloat16
from model.optim.config import OptimizationConfig
from tests.worlds.discriminators import convolutions, discriminator_pack, fill, settings, window_lengths

SMALL = AdversarialConfig(
    spectrogram=SpectrogramDiscriminatorConfig(filters=4, ffts=(64, 32), hops=(16, 8), windows=(64, 32)),
    period=PeriodDiscriminatorConfig(periods=(2, 3), filters=(4, 8, 8)),
    scale=ScaleDiscriminatorConfig(scales=3, filters=4, strides=(4, 2), largest=16),
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_logits_and_feature_maps_equal_the_oracle(oracles: Path) -> None:
    pack = discriminator_pack(oracles)
    discriminators = Discriminators(pack.facts["config"]["in_channels"], settings(pack.facts), 0)
    fill(discriminators, pack, "weights.")
    for name in ("fake", "real"):
        outputs = discriminators(pack.tensors[name])["spectrogram"]
        assert len(outputs) == len(pack.facts["config"]["n_ffts"])
        for i, output in enumerate(outputs):
            torch.testing.assert_close(output.logits, pack.tensors[f"{name}.logits.{i}"], rtol=1e-4, atol=1e-6)
            if name == "fake":
                assert len(output.features) == sum(key.startswith(f"fake.fmap.{i}.") for key in pack.tensors)
                for j, feature in enumerate(output.features):
                    torch.testing.assert_close(feature, pack.tensors[f"fake.fmap.{i}.{j}"], rtol=1e-4, atol=1e-6)


def test_logits_of_stereo_equal_the_oracle(oracles: Path) -> None:
    pack = discriminator_pack(oracles)
    windows = window_lengths(pack, "stereo.weights.")
    discriminators = Discriminators(pack.tensors["stereo.in"].shape[1], settings(pack.facts, windows=windows), 0)
    fill(discriminators, pack, "stereo.weights.")
    (output,) = discriminators(pack.tensors["stereo.in"])["spectrogram"]
    torch.testing.assert_close(output.logits, pack.tensors["stereo.logits.0"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("samples", [400, 401, 1003])
def test_discriminators_of_every_kind_give_finite_logits_for_sound_of_any_length(channels: int, samples: int) -> None:
    outputs = Discriminators(channels, SMALL, 0)(noise(3, channels, samples))
    assert {kind: len(found) for kind, found in outputs.items()} == {"spectrogram": 2, "period": 2, "scale": 3}
    for output in (one for found in outputs.values() for one in found):
        assert output.logits.shape[:2] == (3, 1)
        assert output.logits.isfinite().all()
        assert all(feature.shape[0] == 3 for feature in output.features)


def test_a_period_discriminator_convolves_only_samples_one_period_apart() -> None:
    wav = noise(1, 1, 300).requires_grad_()
    two, three = Discriminators(1, SMALL, 0)(wav)["period"]
    for output, period in ((two, 2), (three, 3)):
        (gradient,) = torch.autograd.grad(output.logits[0, 0, 5, 1], wav, retain_graph=True)
        places = gradient[0, 0].nonzero()[:, 0]
        assert len(places) > 5
        assert {int(place) % period for place in places} == {1}


def test_each_scale_discriminator_receives_half_the_sample_rate_of_the_one_before() -> None:
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


def test_first_weights_depend_only_on_the_seed_and_leave_the_global_generator_untouched() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    wav = noise(1, 1, 400)
    first, again, other = (Discriminators(1, SMALL, seed)(wav)["period"][0].logits for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_sound_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 64 samples, the longest window, got 63"):
        Discriminators(1, SMALL, 0)(noise(1, 1, 63))


@pytest.mark.parametrize(("change", "message"), [
    ({"spectrogram": None}, "expected a discriminator"),
    ({"spectrogram": {"hops": (256,)}}, "one hop and one window for each FFT, got 5 FFTs, 1 hops and 5 windows"),
    ({"spectrogram": {"ffts": (64,), "hops": (16,), "windows": (128,)}}, "windows no longer than their FFTs"),
])  # fmt: skip
def test_invalid_discriminator_configs_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AdversarialConfig.model_validate(change)


OPTIMIZATION = OptimizationConfig(
    steps=100, warmup_steps=0, floor=1.0, weight_decay=0.0, gradient_norm=None, precision="float32"
)


def adversarial(config: AdversarialConfig = SMALL, seed: int = 0, **changes: object) -> AdversarialTraining:
    return AdversarialTraining(1, config, OPTIMIZATION.model_copy(update=changes), seed, torch.device("cpu"))


@pytest.mark.parametrize("loss", ["hinge", "mse", "hinge2"])
def test_losses_and_their_gradient_equal_the_oracle(oracles: Path, loss: str) -> None:
    pack = discriminator_pack(oracles)
    training = adversarial(settings(pack.facts, loss))
    fill(training.discriminators, pack, "weights.")
    made, true = pack.tensors["fake"].clone().requires_grad_(), pack.tensors["real"]
    losses = training.losses(made, true)
    assert set(losses) == {"adversarial_spectrogram", "features_spectrogram"}
    torch.testing.assert_close(losses["adversarial_spectrogram"], pack.tensors[f"{loss}.adv"], rtol=1e-4, atol=0)
    torch.testing.assert_close(losses["features_spectrogram"], pack.tensors[f"{loss}.feat"], rtol=1e-4, atol=0)
    sum(losses.values()).backward()
    wanted = pack.tensors[f"{loss}.grad_fake_of_adv_plus_feat"]
    torch.testing.assert_close(made.grad, wanted, rtol=1e-4, atol=float(wanted.abs().max()) * 1e-5)
    torch.testing.assert_close(training.step(made, true), pack.tensors[f"{loss}.d_loss"], rtol=1e-4, atol=0)


def test_discriminators_learn_to_separate_two_kinds_of_sound_and_send_no_gradient_to_the_sound() -> None:
    training = adversarial(SMALL.model_copy(update={"learning_rate": 5e-3}))
    made, true = 0.1 * noise(4, 1, 400), 0.1 * noise(4, 1, 400, seed=1).cumsum(-1)
    made.requires_grad_()
    learnt = [float(training.step(made, true)) for _ in range(30)]
    assert learnt[-1] < learnt[0] / 2
    assert made.grad is None


def test_adversarial_losses_give_the_codec_a_gradient_and_the_discriminators_none() -> None:
    training = adversarial()
    made = (0.1 * noise(2, 1, 400)).requires_grad_()
    sum(training.losses(made, noise(2, 1, 400, seed=1)).values()).backward()
    assert made.grad.abs().max() > 0
    assert all(value.grad is None and value.requires_grad for value in training.discriminators.parameters())


def test_a_perfect_reconstruction_has_feature_losses_of_zero() -> None:
    sound = noise(2, 1, 400)
    losses = adversarial().losses(sound, sound)
    assert [float(value) for name, value in losses.items() if name.startswith("features")] == [0.0, 0.0, 0.0]


def test_every_kind_has_its_weights_and_a_loss_of_weight_0_is_not_computed() -> None:
    assert adversarial().weights == {
        **{"adversarial_spectrogram": 4.0, "adversarial_period": 4.0, "adversarial_scale": 4.0},
        **{"features_spectrogram": 4.0, "features_period": 4.0, "features_scale": 4.0},
    }
    features_only = adversarial(SMALL.model_copy(update={"weight": 0.0}))
    assert set(features_only.losses(noise(1, 1, 400), noise(1, 1, 400))) == set(features_only.weights)
    assert all(name.startswith("features") for name in features_only.weights)


def test_a_loaded_state_restores_the_discriminators_bit_for_bit() -> None:
    def teach(training: AdversarialTraining, steps: range) -> None:
        for step in steps:
            training.step(noise(2, 1, 400, seed=step), noise(2, 1, 400, seed=100 + step))

    undisturbed, first, second = adversarial(), adversarial(), adversarial(seed=7)
    teach(undisturbed, range(4))
    teach(first, range(2))
    second.load({name: value.clone() for name, value in first.state().items()})
    teach(second, range(2, 4))
    ours, theirs = undisturbed.state(), second.state()
    moved = [name for name in ours if not name.startswith("average.")]
    assert all(torch.equal(ours[name], theirs[name]) for name in moved)


def test_bfloat16_convolutions_change_the_losses_only_slightly() -> None:
    made, true = 0.1 * noise(4, 1, 800), 0.1 * noise(4, 1, 800, seed=1)
    exact, narrow = adversarial().losses(made, true), adversarial(precision="bfloat16").losses(made, true)
    for name in exact:
        assert narrow[name].dtype == torch.float32
        torch.testing.assert_close(narrow[name], exact[name], rtol=0.05, atol=5e-3)
        assert torch.equal(narrow[name], exact[name]) != multiplies_bfloat16()


@pytest.mark.parametrize("loss", ["hinge", "mse", "hinge2"])
def test_a_discriminator_has_no_loss_when_right_and_a_large_one_when_wrong(loss: str) -> None:
    low, high = (torch.zeros(5), torch.ones(5)) if loss == "mse" else (torch.full((5,), -1.0), torch.full((5,), 1.0))
    assert float(discriminator_loss(low, high, loss)) == 0
    wrong: Tensor = discriminator_loss(high, low, loss)
    assert float(wrong) > 1
