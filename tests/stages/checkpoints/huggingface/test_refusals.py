"""A folder without a complete MusicGen of transformers is refused with the reason, and no code in its files is run."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.checkpoints.huggingface.checkpoint import read_hugging_face
from tests.worlds.hugging_face_models import SHAPES, random_musicgen, save
from tests.worlds.tiny_model import tokenizer

Tensors = dict[str, torch.Tensor]
HEAD = "decoder.lm_heads.0.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(random_musicgen(SHAPES["mono"]), SHAPES["mono"], tmp_path / "theirs")


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def edit_tensors(folder: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


CONFIGURATIONS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another model": (
        lambda config: config.update(model_type="bark"),
        "expected a model of type musicgen or musicgen_melody in .*theirs, got 'bark'",
    ),
    "no codec": (
        lambda config: config.pop("audio_encoder"),
        "expected a text_encoder, an audio_encoder and a decoder in .*theirs, got no audio_encoder",
    ),
    "quantised weights": (
        lambda config: config["text_encoder"].update(quantization_config={"quant_method": "bitsandbytes"}),
        "expected weights that are not quantised in .*theirs, got a quantization_config",
    ),
    "another text encoder": (
        lambda config: config.update(text_encoder={"model_type": "bert"}),
        "expected text_encoder of type t5 in .*theirs, got 'bert'",
    ),
    "an unknown text encoder": (
        lambda config: config.update(text_encoder={"model_type": "nonsense"}),
        "expected the configuration of a musicgen in .*theirs, got",
    ),
    "another codec": (
        lambda config: config.update(audio_encoder={"model_type": "dac"}),
        "expected audio_encoder of type encodec in .*theirs, got 'dac'",
    ),
    "another activation": (
        lambda config: config["decoder"].update(activation_function="silu"),
        "expected activation_function gelu or relu, got silu",
    ),
    "sizes that are no numbers": (
        lambda config: config["decoder"].update(hidden_size="wide"),
        "expected the configuration of a musicgen in .*theirs, got",
    ),
    "heads that do not divide the width": (
        lambda config: config["decoder"].update(num_attention_heads=5),
        "expected an even width that 5 heads divide, got 32",
    ),
    "more codebooks than the codec's": (
        lambda config: config["decoder"].update(num_codebooks=5),
        "expected a codec of at least 5 codebooks, as the decoder in .*theirs uses, got 4",
    ),
    "odd codebooks in stereo": (
        lambda config: config["decoder"].update(num_codebooks=3, audio_channels=2),
        "expected an even num_codebooks for the stereo decoder in .*theirs, got 3",
    ),
    "another codec's width": (
        lambda config: config["audio_encoder"].update(hidden_size=12, codebook_dim=12),
        "expected the weights of audio_encoder in .*theirs, got",
    ),
    "fewer layers": (
        lambda config: config["decoder"].update(num_hidden_layers=1),
        r"theirs: expected the weights of a MusicGen, got \[\] missing and \['decoder.model.decoder.layers.1.enc",
    ),
    "another feed-forward width": (
        lambda config: config["decoder"].update(ffn_dim=64),
        r"expected decoder.model.decoder.layers.0.fc1.weight of shape \[64, 32\], got \[128, 32\]",
    ),
}


@pytest.mark.parametrize(("change", "message"), CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_an_unusable_configuration_is_refused_with_the_reason(
    change: Callable[[dict[str, Any]], object], message: str, folder: Path
) -> None:
    edit(folder / "config.json", change)
    with pytest.raises(ValueError, match=message):
        read_hugging_face(folder)


def test_a_decoder_and_a_codec_of_different_cardinality_are_refused(folder: Path) -> None:
    edit(folder / "config.json", lambda config: config["decoder"].update(vocab_size=32))
    edit(folder / "generation_config.json", lambda config: config.update(decoder_start_token_id=32))
    with pytest.raises(ValueError, match=r"expected a codec of cardinality 32, as the decoder in .* uses, got 16"):
        read_hugging_face(folder)


def test_a_length_that_is_not_a_number_is_refused(folder: Path) -> None:
    edit(folder / "generation_config.json", lambda config: config.update(max_length="long"))
    with pytest.raises(ValueError, match=r"expected a max_length of 1 step or more in .*, got 'long'"):
        read_hugging_face(folder)


def test_another_first_token_is_refused(folder: Path) -> None:
    edit(folder / "generation_config.json", lambda config: config.update(decoder_start_token_id=0))
    with pytest.raises(ValueError, match="to start from token 16, the one after the codes, got 0"):
        read_hugging_face(folder)


TENSORS: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "a missing one": (
        lambda tensors: tensors.pop(HEAD),
        rf"theirs: expected the weights of a MusicGen, got \['{HEAD}'\] missing and \[\] unknown",
    ),
    "an unknown one": (
        lambda tensors: tensors.update({"decoder.extra": torch.zeros(1)}),
        r"got \[\] missing and \['decoder.extra'\] unknown",
    ),
    "one of another shape": (
        lambda tensors: tensors.update({HEAD: torch.zeros(16, 30)}),
        rf"expected {HEAD} of shape \[16, 32\], got \[16, 30\]",
    ),
    "a text encoder that lacks one": (
        lambda tensors: tensors.pop("text_encoder.encoder.final_layer_norm.weight"),
        r"expected the weights of text_encoder in .*, got \['encoder.final_layer_norm.weight'\] missing",
    ),
    "a codec with one too many": (
        lambda tensors: tensors.update({"audio_encoder.extra": torch.zeros(1)}),
        r"expected the weights of audio_encoder in .*, got \[\] missing and \['extra'\] unknown",
    ),
    "positions that are learned": (
        lambda tensors: tensors.update({"decoder.model.decoder.embed_positions.weights": torch.randn(64, 32)}),
        "expected decoder.model.decoder.embed_positions.weights to be sinusoids of period 10000, got another table",
    ),
}


@pytest.mark.parametrize(("change", "message"), TENSORS.values(), ids=TENSORS)
def test_tensors_that_do_not_fit_the_model_are_refused_by_name(
    change: Callable[[Tensors], object], message: str, folder: Path
) -> None:
    edit_tensors(folder, change)
    with pytest.raises(ValueError, match=message):
        read_hugging_face(folder)


def test_folders_with_missing_or_damaged_files_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"expected safetensors in .*model.safetensors, got a file that"):
        read_hugging_face(folder)
    weights.unlink()
    with pytest.raises(ValueError, match=r"expected weights in .*theirs .model.safetensors, .*, got none"):
        read_hugging_face(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {HEAD: "../theirs/config.json"}}))
    with pytest.raises(ValueError, match=r"names in its folder, got none named '../theirs/config.json'"):
        read_hugging_face(folder)
    index.write_text("[]")
    with pytest.raises(ValueError, match="expected an index with a weight_map"):
        read_hugging_face(folder)
    weights.write_bytes(whole)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(
        ValueError, match=r"expected a tokenizer in .*theirs .tokenizer.json or spiece.model., got none"
    ):
        read_hugging_face(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"expected a tokenizer in .*theirs, got"):
        read_hugging_face(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"expected a JSON object in .*config.json, got"):
        read_hugging_face(folder)


class Trap:
    """An object that makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.file,)


def test_a_pickle_that_would_run_code_is_refused_without_running_it(folder: Path, tmp_path: Path) -> None:
    tensors: dict[str, object] = dict(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    tensors["decoder.trap"] = Trap(tmp_path / "ran")
    for pickled in (lambda file: torch.save(tensors, file), lambda file: file.write_bytes(pickle.dumps(tensors))):
        pickled(folder / "pytorch_model.bin")
        with pytest.raises(ValueError, match=r"expected PyTorch weights without code in .*pytorch_model.bin"):
            read_hugging_face(folder)
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(tensors["decoder.trap"]))
    assert (tmp_path / "ran").exists(), "the trap works"


def test_code_that_a_folder_brings_for_its_tokenizer_is_not_run(folder: Path, tmp_path: Path) -> None:
    (folder / "trap.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass TrapTokenizer:\n    pass\n")
    change = {"auto_map": {"AutoTokenizer": ["trap.TrapTokenizer", None]}, "tokenizer_class": "TrapTokenizer"}
    edit(folder / "tokenizer_config.json", lambda config: config.update(change))
    edit(folder / "config.json", lambda config: config.update(auto_map={"AutoConfig": "trap.TrapTokenizer"}))
    try:
        read_hugging_face(folder)
    except ValueError as error:
        assert "expected a tokenizer in" in str(error)  # noqa: PT017
    assert not (tmp_path / "ran").exists()


def test_kernels_that_a_configuration_names_are_not_fetched(folder: Path) -> None:
    def name_kernels(config: dict[str, Any]) -> None:
        for part in (config, config["text_encoder"], config["audio_encoder"], config["decoder"]):
            part.update(attn_implementation="somebody/kernels", _attn_implementation="somebody/kernels")

    edit(folder / "config.json", name_kernels)
    read = read_hugging_face(folder)
    assert read.model.description is not None
    assert read.model.description.encoder.config._attn_implementation in ("sdpa", "eager")


def test_a_tokenizer_with_more_words_than_the_text_encoder_is_refused(folder: Path) -> None:
    more = tokenizer()
    more.add_tokens(["saxophone"])
    more.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"expected a tokenizer of at most the 17 tokens of the text encoder in .* 18"):
        read_hugging_face(folder)
