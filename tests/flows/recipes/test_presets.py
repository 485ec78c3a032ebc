"""Presets: the published ones equal the published models, so that training can start from published weights."""

from typing import get_args

import pytest
from transformers import EncodecConfig, MusicgenConfig, MusicgenMelodyConfig, T5Config

from flows.recipes.presets import OVERLAYS, PRESETS, preset_difference
from flows.recipes.recipe import Recipe
from stages.checkpoints.huggingface.configuration import config_from_hugging_face
from stages.train.initial_model import check_same_model

SIZES = {"small": (1024, 24, 16), "medium": (1536, 48, 24), "large": (2048, 48, 32), "melody": (1536, 48, 24)}
"""Width, layers and heads of facebook/musicgen-<name>, stereo ones included (their config.json)."""


def unknown_fields(difference: object, annotation: object, path: str) -> list[str]:
    """The dotted names in a difference that are not fields of the models that the annotation allows there."""
    models = [branch for branch in (get_args(annotation) or (annotation,)) if hasattr(branch, "model_fields")]
    if not isinstance(difference, dict) or not models:
        return []
    fields = {name: field.annotation for model in models for name, field in model.model_fields.items()}
    unknown = [f"{path}.{name}" for name in difference if name not in fields]
    for name in difference.keys() & fields.keys():
        unknown += unknown_fields(difference[name], fields[name], f"{path}.{name}")
    return unknown


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_sets_only_existing_fields(preset: str) -> None:
    assert unknown_fields(preset_difference(preset), Recipe, preset) == []


@pytest.mark.parametrize("preset", PRESETS)
def test_the_eu_overlay_signs_clips_and_refuses_recordings_of_unknown_licence(preset: str) -> None:
    plain, over = (Recipe.model_validate({"preset": name}) for name in (preset, f"{preset}+eu"))
    assert over.decode.credentials is not None
    assert over.ingest.licences.unknown == over.train.licences.unknown == "refuse"
    changed = {name for name in Recipe.model_fields if getattr(plain, name) != getattr(over, name)}
    assert changed == {"preset", "decode", "ingest", "train", "train_codec"}


def test_an_own_certificate_replaces_the_development_certificate() -> None:
    own = {"decode": {"credentials": {"certificate": "label.pem", "key": "label.key"}}}
    credentials = Recipe.model_validate({"preset": "miniature+eu", **own}).decode.credentials
    assert credentials is not None
    assert (credentials.certificate, credentials.key) == ("label.pem", "label.key")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("eu", r"such as miniature\+eu, got 'eu'"),
        ("miniature+euu", r"expected eu to apply to miniature, got 'euu' \(did you mean eu\?\)"),
        ("miniatur+eu", "unknown preset 'miniatur'"),
    ],
)
def test_an_unknown_overlay_is_refused_with_the_known_ones(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        preset_difference(name)


def test_an_overlay_sets_only_existing_fields() -> None:
    assert [unknown_fields(make(), Recipe, name) for name, make in OVERLAYS.items()] == [[]] * len(OVERLAYS)


def test_unknown_fields_of_a_difference_are_found_with_their_paths() -> None:
    wrong = {"train": {"model": {"language_model": {"widht": 1024}}}, "trian": {}}
    assert unknown_fields(wrong, Recipe, "preset") == ["preset.trian", "preset.train.model.language_model.widht"]


def as_published(name: str, stereo: bool) -> MusicgenConfig | MusicgenMelodyConfig:
    width, layers, heads = SIZES[name]
    decoder = {"vocab_size": 2048, "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    decoder |= {"ffn_dim": 4 * width, "num_codebooks": 8 if stereo else 4, "audio_channels": 2 if stereo else 1}
    parts = {
        "text_encoder": T5Config(d_model=768, vocab_size=32_128).to_dict(),
        "audio_encoder": EncodecConfig(sampling_rate=32_000).to_dict(),
        "decoder": decoder,
    }
    return MusicgenMelodyConfig(**parts, chroma_length=235) if name == "melody" else MusicgenConfig(**parts)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name.startswith("musicgen-")])
def test_training_of_a_published_preset_can_start_from_the_published_weights(preset: str) -> None:
    *_, name = preset.split("-")
    checkpoint = config_from_hugging_face(as_published(name, "stereo" in preset), melody_rate=7.8125, max_tokens=512)
    recipe = Recipe(preset=preset)
    check_same_model(recipe.train, checkpoint)
    assert recipe.train.model.conditions == checkpoint.conditions


@pytest.mark.parametrize("name", SIZES)
def test_a_stereo_preset_can_start_from_the_mono_weights(name: str) -> None:
    mono = config_from_hugging_face(as_published(name, stereo=False), melody_rate=7.8125, max_tokens=512)
    check_same_model(Recipe(preset=f"musicgen-stereo-{name}").train, mono)


def test_weights_of_another_size_are_refused() -> None:
    medium = config_from_hugging_face(as_published("medium", stereo=False), melody_rate=7.8125, max_tokens=512)
    with pytest.raises(ValueError, match=r"layers: expected 48, got 24"):
        check_same_model(Recipe(preset="musicgen-small").train, medium)
