"""Adversarial and feature losses: AudioCraft's numbers and gradients, and who learns from what."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.codec.adversarial import AdversarialTraining, discriminator_loss
from model.codec.config import AdversarialConfig
from model.optim.config import OptimizationConfig
from tests.model.codec.test_discriminators import SMALL, noise
from tests.worlds.discriminators import discriminator_pack, fill, settings

OPTIMIZATION = OptimizationConfig(
    steps=100, warmup_steps=0, floor=1.0, weight_decay=0.0, gradient_norm=None, precision="float32"
)


def adversarial(config: AdversarialConfig = SMALL, seed: int = 0, **changes: object) -> AdversarialTraining:
    return AdversarialTraining(1, config, OPTIMIZATION.model_copy(update=changes), seed, torch.device("cpu"))


@pytest.mark.parametrize("loss", ["hinge", "mse", "hinge2"])
def test_losses_and_their_gradient_equal_the_oracle(oracles: Path, loss: str) -> None:
    pack = discriminator_pack(oracles)
    training = adversarial(settings(pack.facts, slice(None), loss))
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


def test_discriminators_learn_to_tell_two_kinds_of_sound_apart_and_the_sound_gets_no_gradient() -> None:
    training = adversarial(SMALL.model_copy(update={"learning_rate": 5e-3}))
    made, true = 0.1 * noise(4, 1, 400), 0.1 * noise(4, 1, 400, seed=1).cumsum(-1)
    made.requires_grad_()
    learnt = [float(training.step(made, true)) for _ in range(30)]
    assert learnt[-1] < learnt[0] / 2
    assert made.grad is None


def test_what_the_discriminators_say_costs_the_codec_and_teaches_no_discriminator() -> None:
    training = adversarial()
    made = (0.1 * noise(2, 1, 400)).requires_grad_()
    sum(training.losses(made, noise(2, 1, 400, seed=1)).values()).backward()
    assert made.grad.abs().max() > 0
    assert all(value.grad is None and value.requires_grad for value in training.discriminators.parameters())


def test_a_perfect_reconstruction_matches_all_features() -> None:
    sound = noise(2, 1, 400)
    losses = adversarial().losses(sound, sound)
    assert [float(value) for name, value in losses.items() if name.startswith("features")] == [0.0, 0.0, 0.0]


def test_every_kind_has_its_weights_and_a_weight_of_0_is_not_computed() -> None:
    assert adversarial().weights == {
        **{"adversarial_spectrogram": 4.0, "adversarial_period": 4.0, "adversarial_scale": 4.0},
        **{"features_spectrogram": 4.0, "features_period": 4.0, "features_scale": 4.0},
    }
    features_only = adversarial(SMALL.model_copy(update={"weight": 0.0}))
    assert set(features_only.losses(noise(1, 1, 400), noise(1, 1, 400))) == set(features_only.weights)
    assert all(name.startswith("features") for name in features_only.weights)


def test_a_state_brings_back_the_discriminators_bit_for_bit() -> None:
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


def test_narrow_convolutions_change_the_losses_by_little() -> None:
    made, true = 0.1 * noise(4, 1, 800), 0.1 * noise(4, 1, 800, seed=1)
    exact, narrow = adversarial().losses(made, true), adversarial(precision="bfloat16").losses(made, true)
    for name in exact:
        assert narrow[name].dtype == torch.float32
        torch.testing.assert_close(narrow[name], exact[name], rtol=0.05, atol=5e-3)
        assert not torch.equal(narrow[name], exact[name])


@pytest.mark.parametrize("loss", ["hinge", "mse", "hinge2"])
def test_a_discriminator_that_is_right_pays_nothing_and_one_that_is_wrong_does(loss: str) -> None:
    low, high = (torch.zeros(5), torch.ones(5)) if loss == "mse" else (torch.full((5,), -1.0), torch.full((5,), 1.0))
    assert float(discriminator_loss(low, high, loss)) == 0
    wrong: Tensor = discriminator_loss(high, low, loss)
    assert float(wrong) > 1
