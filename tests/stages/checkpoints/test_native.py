"""A trained language model's folder: the model written is the model read."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.conditioning.config import ClapConfig, MelodyConfig, MusicModelConfig, TextConfig
from model.lm.config import LanguageModelConfig
from model.music_model import Attributes, MusicModel
from schemas.weights import LocalWeights, folder_digest
from stages.checkpoints.facts import CheckpointFacts
from stages.checkpoints.loading import load_checkpoint
from stages.checkpoints.native import TrainedModel, load_encodec, load_text_encoder, save_checkpoint
from tests.worlds.bars import no_bars_of_transformers
from tests.worlds.small_checkpoint import find, refuse, same_weights, small_checkpoint
from tests.worlds.tiny_models import CARDINALITY, CODEBOOKS, FRAME_RATE, text_encoder


def configuration(finetune: bool) -> MusicModelConfig:
    return MusicModelConfig(
        language_model=LanguageModelConfig(
            codebooks=CODEBOOKS,
            cardinality=CARDINALITY,
            width=16,
            heads=2,
            layers=2,
            cross=("description", "clap"),
            prepend=("chroma",),
        ),
        description=TextConfig(width=16, finetune=finetune),
        chroma=MelodyConfig(frames=10),
        clap=ClapConfig(width=3),
    )


def saved(tmp_path: Path, finetune: bool) -> tuple[TrainedModel, Path, LocalWeights]:
    """A model written into `tmp_path/checkpoint`, and the text encoder that it was trained with."""
    source = text_encoder(tmp_path / "encoder")
    encoder, tokenizer = load_text_encoder(source)
    torch.manual_seed(1)
    model = MusicModel(configuration(finetune), encoder, tokenizer).eval()
    facts = CheckpointFacts(
        model=model.config,
        frame_rate=FRAME_RATE,
        segment_seconds=2.0,
        text_encoder=str(source),
        text_encoder_digest=folder_digest(source),
        versions={"tokens": "abc"},
    )
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    save_checkpoint(folder, model, facts)
    return TrainedModel(model, facts), folder, LocalWeights(str(source), source, folder_digest(source))


@pytest.mark.parametrize("finetune", [False, True])
def test_a_saved_model_is_loaded_bit_for_bit(tmp_path: Path, finetune: bool) -> None:
    written, folder, found = saved(tmp_path, finetune)
    read = load_checkpoint(folder, lambda reference: found)
    assert read.facts == written.facts
    state = read.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in written.model.state_dict().items())
    codes = torch.randint(CARDINALITY, (2, CODEBOOKS, 20))
    attributes = [Attributes("fast jazz", torch.eye(12)[:7], torch.ones(3)), Attributes()]
    with torch.no_grad():
        assert torch.equal(read.model(codes, attributes).logits, written.model(codes, attributes).logits)
    assert not read.model.training


def test_a_trained_text_encoder_is_saved_with_the_checkpoint_and_a_frozen_one_is_not(tmp_path: Path) -> None:
    load_checkpoint(saved(tmp_path / "learned", True)[1], refuse)
    with pytest.raises(AssertionError, match="asked for"):
        load_checkpoint(saved(tmp_path / "frozen", False)[1], refuse)


def test_a_text_encoder_other_than_the_one_of_the_training_is_refused(tmp_path: Path) -> None:
    _, folder, found = saved(tmp_path, False)
    other = LocalWeights(found.reference, found.path, "0" * 64)
    with pytest.raises(ValueError, match=f"with digest {found.digest}, as checkpoint was trained with, got 000"):
        load_checkpoint(folder, lambda reference: other)


def test_a_folder_without_a_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a language model's checkpoint in .*nowhere"):
        load_checkpoint(tmp_path / "nowhere", lambda reference: pytest.fail("asked for weights"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="expected a language model's checkpoint"):
        load_checkpoint(tmp_path, lambda reference: pytest.fail("asked for weights"))
    with pytest.raises(ValueError, match="expected a T5 encoder and its tokenizer in"):
        load_text_encoder(tmp_path)


def test_a_text_encoder_with_weights_that_do_not_fit_is_refused(tmp_path: Path) -> None:
    source = text_encoder(tmp_path / "encoder")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"d_ff": 2 * config["d_ff"]}))
    with pytest.raises(ValueError, match="expected a T5 encoder and its tokenizer in"):
        load_text_encoder(source)


def test_a_folder_with_its_text_encoder_and_codec_needs_no_other_files(tmp_path: Path) -> None:
    small = small_checkpoint(tmp_path)
    facts = small.trained.facts.model_copy(update={"text_encoder": None})
    codec = load_encodec(small.codec)
    (tmp_path / "whole").mkdir()
    with no_bars_of_transformers():
        save_checkpoint(tmp_path / "whole", small.trained.model, facts, codec)
    shutil.rmtree(small.text_encoder)
    shutil.rmtree(small.codec)
    read = load_checkpoint(tmp_path / "whole", refuse)
    assert same_weights(read, small.trained)
    assert read.codec is not None
    ours = codec.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in read.codec.state_dict().items())


def test_a_codec_inside_that_does_not_fit_the_model_is_refused_by_its_identity(tmp_path: Path) -> None:
    small = small_checkpoint(tmp_path)
    save_checkpoint(small.folder, small.trained.model, small.trained.facts, load_encodec(small.codec))
    network = load_encodec(small.codec)
    with torch.no_grad():
        network.quantizer.layers[0].codebook.embed.neg_()
    network.save_pretrained(small.folder / "codec")
    assert small.trained.facts.codec is not None
    identity = small.trained.facts.codec.identity
    expected = f"expected the codec with identity {identity}, which the checkpoint .*checkpoint uses"
    with pytest.raises(ValueError, match=expected):
        load_checkpoint(small.folder, find)


def test_a_folder_of_the_first_format_loads_without_a_codec(tmp_path: Path) -> None:
    small = small_checkpoint(tmp_path)
    config = json.loads((small.folder / "config.json").read_text())
    del config["codec"], config["model"]["language_model"]["padding"]
    (small.folder / "config.json").write_text(json.dumps(config | {"format": 1}))
    read = load_checkpoint(small.folder, find)
    assert read.facts.codec is None
    assert read.codec is None
    assert read.facts.model.language_model.padding == "attended"
    assert same_weights(read, small.trained)
    (small.folder / "config.json").write_text(json.dumps(config | {"format": 3}))
    with pytest.raises(ValueError, match="expected a language model's checkpoint in"):
        load_checkpoint(small.folder, find)


def test_damaged_weights_are_refused_by_name(tmp_path: Path) -> None:
    small = small_checkpoint(tmp_path)
    weights = small.folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"expected a language model's checkpoint in .*checkpoint, got"):
        load_checkpoint(small.folder, find)
    weights.unlink()
    with pytest.raises(ValueError, match=r"expected a language model's checkpoint in .*checkpoint, got"):
        load_checkpoint(small.folder, find)


def test_no_code_named_by_a_folder_is_fetched_or_run(tmp_path: Path) -> None:
    small = small_checkpoint(tmp_path)
    (tmp_path / "whole").mkdir()
    facts = small.trained.facts.model_copy(update={"text_encoder": None})
    save_checkpoint(tmp_path / "whole", small.trained.model, facts, load_encodec(small.codec))
    inside = tmp_path / "whole" / "text_encoder"
    (inside / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    for file, words in (
        (inside / "tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}),
        (inside / "config.json", {"attn_implementation": "somebody/kernels"}),
        (tmp_path / "whole" / "codec" / "config.json", {"attn_implementation": "somebody/kernels"}),
    ):
        file.write_text(json.dumps(json.loads(file.read_text()) | words))
    assert same_weights(load_checkpoint(tmp_path / "whole", refuse), small.trained)
    assert not (tmp_path / "ran").exists()


def test_missing_weights_are_refused_and_not_invented(tmp_path: Path) -> None:
    small = small_checkpoint(tmp_path)
    for folder, name, load in (
        (small.codec, "quantizer.layers.0.codebook.embed", load_encodec),
        (small.text_encoder, "encoder.final_layer_norm.weight", load_text_encoder),
    ):
        tensors = load_file(folder / "model.safetensors")
        del tensors[name]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=rf"{folder}, got no weights for {name}"):
            load(folder)
