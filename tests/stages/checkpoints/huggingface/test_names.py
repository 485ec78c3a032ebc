"""Weights get transformers' names and are restored from them; weights without a place there are named."""

import pytest
import torch

from model.conditioning.config import MelodyConfig, MusicModelConfig, TextConfig
from model.lm.config import LanguageModelConfig
from model.music_model import MusicModel
from stages.checkpoints.huggingface.names import (
    names_in_hugging_face,
    weights_from_hugging_face,
    weights_to_hugging_face,
)
from tests.worlds.tiny_model import text_encoder, tokenizer

QUERIES = "decoder.model.decoder.layers.1.encoder_attn.q_proj.weight"


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    """The weights of a model with every part that the form has a place for."""
    language = LanguageModelConfig(
        codebooks=3, cardinality=8, width=12, heads=2, layers=2, cross=("description",), prepend=("chroma",)
    )
    config = MusicModelConfig(language_model=language, description=TextConfig(width=16), chroma=MelodyConfig(frames=4))
    return MusicModel(config, text_encoder(), tokenizer()).weights()


def test_weights_are_restored_from_transformers_names(weights: dict[str, torch.Tensor]) -> None:
    theirs = weights_to_hugging_face(weights)
    back = weights_from_hugging_face(theirs, {name: value.shape for name, value in weights.items()})
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], value) for name, value in weights.items())


def test_one_matrix_becomes_queries_keys_and_values(weights: dict[str, torch.Tensor]) -> None:
    name = "language_model.transformer.layers.1.cross_attention.in_projection.weight"
    theirs = weights_to_hugging_face({name: weights[name]})
    assert list(theirs) == [QUERIES.replace("q_proj", f"{part}_proj") for part in "qkv"]
    assert torch.equal(theirs[QUERIES], weights[name][:12])


def test_missing_unknown_and_misshapen_tensors_are_named(weights: dict[str, torch.Tensor]) -> None:
    theirs, shapes = weights_to_hugging_face(weights), {name: value.shape for name, value in weights.items()}
    with pytest.raises(ValueError, match=rf"got \['{QUERIES}'\] missing and \['extra'\] unknown"):
        weights_from_hugging_face({n: v for n, v in theirs.items() if n != QUERIES} | {"extra": torch.zeros(1)}, shapes)
    with pytest.raises(ValueError, match=rf"expected {QUERIES} of shape \[12, 12\], got \[12, 10\]"):
        weights_from_hugging_face(theirs | {QUERIES: torch.zeros(12, 10)}, shapes)


def test_parameters_that_transformers_lacks_are_named() -> None:
    with pytest.raises(ValueError, match=r"expected a parameter that Hugging Face's MusicGen has, got 'clap.proj"):
        names_in_hugging_face("clap.projection.weight")
    with pytest.raises(ValueError, match=r"got .*layers.0.self_scale"):
        weights_to_hugging_face({"language_model.transformer.layers.0.self_scale": torch.ones(4)})
