"""Text encoders in AudioCraft's checkpoints: by their names, or with their weights if they were trained."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import T5Config, T5EncoderModel

from stages.checkpoints.audiocraft.checkpoint import read_audiocraft, write_audiocraft
from stages.checkpoints.audiocraft.conditioners import T5_SIZES, NamedT5, T5Size, find_t5
from stages.checkpoints.audiocraft.package import LANGUAGE_MODEL_FILE
from stages.checkpoints.native import TrainedModel
from tests.worlds.audiocraft_files import text_encoders, written
from tests.worlds.tiny_models import text_encoder

PLACE = "condition_provider.conditioners.description.t5."


def learned(tmp_path: Path) -> dict[str, Tensor]:
    """The state of a T5 with the small encoder's shape and other weights, as AudioCraft's files store it."""
    network = T5EncoderModel(T5EncoderModel.from_pretrained(text_encoder(tmp_path / "t5")).config)
    return {f"{PLACE}{name}": value + 1.0 for name, value in network.state_dict().items()}


def with_learned_encoder(tmp_path: Path) -> Path:
    """A checkpoint with a text encoder that was trained with the model."""
    there = written(tmp_path, "text", "conditioners.description.t5.finetune", True)
    content = torch.load(there.folder / LANGUAGE_MODEL_FILE, weights_only=True)
    content["best_state"] |= learned(tmp_path)
    torch.save(content, there.folder / LANGUAGE_MODEL_FILE)
    return there.folder


@pytest.fixture
def small_t5(monkeypatch: pytest.MonkeyPatch) -> None:
    """A t5-base as small as the tests' encoder."""
    monkeypatch.setitem(T5_SIZES, "t5-base", T5Size("google-t5/t5-base", 16, 1, 2, 8, 32, False))
    monkeypatch.setattr("stages.checkpoints.audiocraft.conditioners.T5_VOCABULARY", 22)


def test_a_trained_encoder_is_read_from_the_file_and_not_by_its_name(tmp_path: Path) -> None:
    trained = read_audiocraft(with_learned_encoder(tmp_path), text_encoders(tmp_path))
    assert trained.model.description is not None
    assert trained.facts.model.description is not None
    assert trained.facts.model.description.finetune
    assert trained.facts.text_encoder is None
    state = trained.model.description.encoder.state_dict()
    content = torch.load(tmp_path / "audiocraft" / LANGUAGE_MODEL_FILE, weights_only=True)["best_state"]
    assert all(torch.equal(value, content[f"{PLACE}{name}"]) for name, value in state.items())


@pytest.mark.usefixtures("small_t5")
def test_a_trained_encoder_is_written_with_the_model(tmp_path: Path) -> None:
    find, back = text_encoders(tmp_path), tmp_path / "back"
    first = read_audiocraft(with_learned_encoder(tmp_path), find)
    back.mkdir()
    write_audiocraft(first, back)
    there = torch.load(tmp_path / "audiocraft" / LANGUAGE_MODEL_FILE, weights_only=True)["best_state"]
    found = torch.load(back / LANGUAGE_MODEL_FILE, weights_only=True)["best_state"]
    assert set(found) == set(there)
    assert all(torch.equal(found[name], value) for name, value in there.items())
    assert read_audiocraft(back, find).facts == first.facts


@pytest.mark.usefixtures("small_t5")
def test_a_frozen_encoder_stored_with_the_model_is_written_as_a_trained_one(tmp_path: Path) -> None:
    find, back = text_encoders(tmp_path), tmp_path / "back"
    first = read_audiocraft(written(tmp_path, "text").folder, find)
    facts = first.facts.model_copy(update={"text_encoder": None})
    back.mkdir()
    write_audiocraft(replace(first, facts=facts), back)
    second = read_audiocraft(back, find)
    assert first.model.description is not None
    assert second.model.description is not None
    assert second.model.description.config.finetune
    state = second.model.description.encoder.state_dict()
    assert all(torch.equal(state[name], value) for name, value in first.model.description.encoder.state_dict().items())


def with_shape(trained: TrainedModel, shape: T5Config) -> TrainedModel:
    """The same model, with an encoder that claims another shape."""
    assert trained.model.description is not None
    trained.model.description.encoder.config = shape
    return replace(trained, facts=trained.facts.model_copy(update={"text_encoder": "checkpoint:text"}))


def test_a_published_t5_is_recognised_by_its_name_or_its_shape(tmp_path: Path) -> None:
    trained = read_audiocraft(written(tmp_path, "text").folder, text_encoders(tmp_path))
    assert find_t5(trained) == NamedT5("t5-base", inside=False)
    published = T5Config(feed_forward_proj="relu")  # the defaults of transformers are those of t5-small
    assert find_t5(with_shape(trained, published)) == NamedT5("t5-small", inside=True)
    flan = T5Config(d_model=768, d_ff=2_048, num_layers=12, num_heads=12, feed_forward_proj="gated-gelu")
    assert find_t5(with_shape(trained, flan)) == NamedT5("google/flan-t5-base", inside=True)
    flan.vocab_size = 99
    with pytest.raises(
        ValueError, match=r"expected a text encoder that AudioCraft knows by name .* 12 layers and 99 pie"
    ):
        find_t5(with_shape(trained, flan))
