"""Presets that train a codec: they have the published hyper-parameters, and the stages after it fit."""

import pytest
from transformers import EncodecConfig

from flows.recipes.recipe import Recipe
from model.codec.network import new_network

ABOUT_THE_CODE = {"transformers_version", "dtype", "architectures", "torch_dtype"}


def test_the_24_khz_codec_equals_the_published_one_which_is_transformers_default() -> None:
    ours = new_network(Recipe(preset="encodec-24khz").train_codec.network, 0).config.to_dict()
    theirs = EncodecConfig().to_dict()
    assert {name for name in theirs if ours[name] != theirs[name]} <= ABOUT_THE_CODE


def test_the_32_khz_codec_equals_the_published_one() -> None:
    network = new_network(Recipe(preset="encodec-32khz").train_codec.network, 0)
    config = network.config
    assert (config.sampling_rate, config.audio_channels, config.hop_length, config.frame_rate) == (32_000, 1, 640, 50)
    assert (config.num_filters, config.upsampling_ratios, config.hidden_size) == (64, [8, 5, 4, 4], 128)
    assert (config.num_lstm_layers, config.use_causal_conv, config.use_conv_shortcut) == (2, False, False)
    assert (config.codebook_size, config.num_quantizers, config.target_bandwidths) == (2048, 4, [2.2])
    assert not config.normalize


@pytest.mark.parametrize(
    ("preset", "steps", "weights", "discriminators"),
    [
        ("encodec-32khz", 400_000, (0.1, 2.0), (4.0, 4.0, 1.0)),
        ("encodec-24khz", 600_000, (0.1, 1.0), (3.0, 3.0, 2 / 3)),
    ],
)
def test_codecs_are_trained_with_the_published_hyper_parameters(
    preset: str, steps: int, weights: tuple, discriminators: tuple
) -> None:
    training = Recipe(preset=preset).train_codec.training
    optimization, adversarial = training.optimization, training.adversarial
    assert (optimization.steps, optimization.learning_rate, optimization.betas) == (steps, 3e-4, (0.5, 0.9))
    assert (optimization.floor, optimization.warmup_steps, optimization.weight_decay) == (1.0, 0, 0.0)
    assert optimization.gradient_norm is None
    assert (training.batch_size, training.segment) == (64, 1.0)
    assert (training.waveform_weight, training.spectral_weight) == weights
    assert (adversarial.weight, adversarial.feature_weight, adversarial.update_probability) == discriminators
    assert (adversarial.loss, adversarial.period, adversarial.scale) == ("hinge", None, None)
    assert adversarial.spectrogram.ffts == (1024, 2048, 512, 256, 128)
    assert (training.balancer.decay, training.balancer.total_norm, training.balancer.per_item) == (0.999, 1.0, True)


@pytest.mark.parametrize("preset", ["encodec-32khz", "encodec-24khz"])
def test_all_stages_of_a_codec_preset_use_its_codec_and_the_language_model_fits_it(preset: str) -> None:
    recipe = Recipe(preset=preset)
    assert "train_codec" in [stage.name for stage in recipe.configured_stages("music")]
    assert {recipe.tokenize.codec, recipe.decode.codec, recipe.generate.codec, recipe.evaluate.codec} == {
        "checkpoint:codec"
    }
    model, codec = recipe.train.model.language_model, recipe.train_codec.network
    assert model.codebooks == (recipe.tokenize.codebooks or codec.codebooks)
    assert model.cardinality == codec.cardinality
    assert len(model.codebook_delays) == model.codebooks


def test_the_miniature_trains_its_codec_without_discriminators() -> None:
    training = Recipe().train_codec.training
    assert (training.adversarial, training.balancer, training.weight_norm) == (None, None, False)
    assert (training.waveform_weight, training.spectral_weight, training.optimization.gradient_norm) == (
        50.0,
        0.333,
        1.0,
    )
    # A user who turns discriminators on over the miniature gets the published ones.
    training = Recipe.model_validate(
        {"train_codec": {"training": {"adversarial": {"weight": 1.0}}}}
    ).train_codec.training
    assert (training.adversarial.weight, training.adversarial.feature_weight, training.waveform_weight) == (
        1.0,
        4.0,
        50.0,
    )
