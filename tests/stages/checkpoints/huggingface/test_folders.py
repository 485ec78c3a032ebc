"""Folders in every published form are read, and everything that transformers needs is written."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, MusicgenMelodyProcessor, MusicgenProcessor, pipeline

from model.conditioning.config import MusicModelConfig, TextConfig
from model.decoding.generation import GenerationRequest, generate
from model.lm.config import LanguageModelConfig
from model.music_model import Attributes, MusicModel
from stages.checkpoints.facts import CheckpointFacts
from stages.checkpoints.huggingface.checkpoint import read_hugging_face, write_hugging_face
from stages.checkpoints.loading import load_checkpoint
from stages.checkpoints.native import TrainedModel
from tests.worlds.hugging_face_models import (
    SHAPES,
    Shape,
    encoded,
    greedy_codes,
    load,
    random_musicgen,
    save,
)
from tests.worlds.tiny_codec import HOP, SAMPLE_RATE
from tests.worlds.tiny_model import text_encoder, tokenizer

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
DESCRIPTIONS = ["calm piano at night", "drums", "loud fast bass with strings and drums in C minor"]


def shard(folder: Path, pickled: bool = False) -> None:
    """Weights in two files and an index."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    places = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        stem = f"{'pytorch_model' if pickled else 'model'}-{number:05}-of-00002"
        file = folder / f"{stem}.{'bin' if pickled else 'safetensors'}"
        found = {name: tensors[name] for name in part}
        torch.save(found, file) if pickled else save_file(found, file)
        places |= dict.fromkeys(part, file.name)
    index = "pytorch_model.bin.index.json" if pickled else INDEX
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def make_old(folder: Path) -> None:
    """Files like those of early versions of transformers: sinusoids among the weights, old names for weight norm,
    pickled."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    old = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for name, value in tensors.items()
    }
    assert len(set(old) - set(tensors)) > 10
    table = random_musicgen(SHAPES["mono"]).decoder.model.decoder.embed_positions.weights
    old["decoder.model.decoder.embed_positions.weights"] = table
    old["text_encoder.encoder.embed_tokens.weight"] = old["text_encoder.shared.weight"]
    torch.save(old, folder / "pytorch_model.bin")


def same(first: TrainedModel, second: TrainedModel) -> bool:
    pairs = ((first.model, second.model), (first.codec, second.codec))
    states = [(one.state_dict(), other.state_dict()) for one, other in pairs if one is not None and other is not None]
    assert len(states) == 2
    return all(torch.equal(value, others[name]) for state, others in states for name, value in state.items())


@pytest.mark.parametrize("change", [shard, lambda folder: shard(folder, True), make_old], ids=["shards", "bins", "old"])
def test_weights_in_shards_in_pickles_and_under_old_names_are_read_alike(change: Any, tmp_path: Path) -> None:
    theirs = random_musicgen(SHAPES["mono"])
    plain = read_hugging_face(save(theirs, SHAPES["mono"], tmp_path / "plain"))
    changed = save(theirs, SHAPES["mono"], tmp_path / "changed")
    change(changed)
    assert same(read_hugging_face(changed), plain)


def test_weights_in_half_precision_become_float32(tmp_path: Path) -> None:
    folder = save(random_musicgen(SHAPES["mono"]).half(), SHAPES["mono"], tmp_path)
    read = read_hugging_face(folder)
    assert {value.dtype for value in read.model.state_dict().values()} == {torch.float32}
    stored = load_file(folder / WEIGHTS)["decoder.lm_heads.1.weight"]
    assert torch.equal(read.model.state_dict()["language_model.heads.1.weight"], stored.float())


def test_missing_settings_of_a_folder_get_the_values_of_published_models(tmp_path: Path) -> None:
    folder = save(random_musicgen(SHAPES["melody"]), SHAPES["melody"], tmp_path)
    (folder / "generation_config.json").unlink()
    (folder / "preprocessor_config.json").unlink()
    facts = read_hugging_face(folder).facts
    assert facts.segment_seconds == 30.0
    assert facts.model.chroma is not None
    assert facts.model.chroma.frame_rate == 7.8125
    assert facts.model.description is not None
    assert facts.model.description.max_tokens == 512


@pytest.mark.parametrize("name", ["preprocessor_config.json", "processor_config.json"])
def test_the_rate_of_a_melody_comes_from_the_feature_extractor(name: str, tmp_path: Path) -> None:
    folder = save(random_musicgen(SHAPES["melody"]), SHAPES["melody"], tmp_path)
    features = json.loads((folder / "preprocessor_config.json").read_text()) | {"hop_length": 3200}
    (folder / "preprocessor_config.json").unlink()
    described = features if name == "preprocessor_config.json" else {"feature_extractor": features}
    (folder / name).write_text(json.dumps(described))
    chroma = read_hugging_face(folder).facts.model.chroma
    assert chroma is not None
    assert chroma.frame_rate == 10.0


def test_loading_a_checkpoint_recognises_the_hugging_face_form(tmp_path: Path) -> None:
    folder = save(random_musicgen(SHAPES["mono"]), SHAPES["mono"], tmp_path)
    (folder / "state_dict.bin").write_bytes(b"AudioCraft's, as published repositories hold it too")
    found = load_checkpoint(folder, lambda reference: pytest.fail(f"asked for {reference}"))
    assert same(found, read_hugging_face(folder))


def exported(shape: Shape, tmp_path: Path) -> Path:
    folder = tmp_path / "ours"
    folder.mkdir()
    write_hugging_face(read_hugging_face(save(random_musicgen(shape), shape, tmp_path / "theirs")), folder)
    return folder


@pytest.mark.parametrize("name", ["mono", "stereo"])
def test_an_exported_folder_brings_its_processor_and_generation_settings(name: str, tmp_path: Path) -> None:
    folder = exported(SHAPES[name], tmp_path)
    channels = 2 if SHAPES[name].stereo else 1
    processor: Any = MusicgenProcessor.from_pretrained(folder)
    assert type(AutoProcessor.from_pretrained(folder)) is MusicgenProcessor
    inputs = processor(text=DESCRIPTIONS, padding=True, return_tensors="pt")
    assert {key: value.tolist() for key, value in inputs.items()} == (
        {key: value.tolist() for key, value in encoded(DESCRIPTIONS).items()}
    )
    sound = torch.randn(channels, 4 * HOP).squeeze(0).numpy()
    heard = processor(audio=sound, sampling_rate=SAMPLE_RATE, text=DESCRIPTIONS[:1], padding=True, return_tensors="pt")
    assert heard["input_values"].shape == (1, channels, 4 * HOP)
    model = load(folder)
    settings = model.generation_config
    assert (settings.guidance_scale, settings.do_sample, settings.top_k, settings.max_length) == (3.0, True, 250, 100)
    special = SHAPES[name].cardinality
    assert (settings.decoder_start_token_id, settings.pad_token_id, settings.bos_token_id) == (special,) * 3
    # Of the 100 steps after the first, the last ones complete frames that the delays began.
    frames = 101 - SHAPES[name].levels
    assert model.generate(**inputs).shape == (len(DESCRIPTIONS), channels, frames * HOP)
    assert model.generate(**heard).shape == (1, channels, (4 + frames) * HOP), "the sound, and as much new"


def test_an_exported_folder_works_in_a_pipeline(tmp_path: Path) -> None:
    made: Any = pipeline("text-to-audio", model=str(exported(SHAPES["mono"], tmp_path)))
    found = made("calm piano", generate_kwargs={"max_new_tokens": 13})
    assert found["sampling_rate"] == SAMPLE_RATE
    assert found["audio"].shape[-1] == 10 * HOP


def test_an_exported_melody_model_gets_melodies_from_its_processor(tmp_path: Path) -> None:
    folder = exported(SHAPES["melody"], tmp_path)
    processor: Any = MusicgenMelodyProcessor.from_pretrained(folder)
    tone = torch.sin(torch.arange(32_000) * 2 * torch.pi * 440 / 32_000).numpy()
    inputs = processor(audio=tone, sampling_rate=32_000, text=DESCRIPTIONS[:1], padding=True, return_tensors="pt")
    assert inputs["input_features"].shape == (1, 8, 12)
    assert (inputs["input_features"].argmax(-1) == 9).all(), "440 Hz is an A"
    assert load(folder).generate(**inputs, max_new_tokens=13).shape == (1, 1, 10 * HOP)


@pytest.mark.parametrize("padding", ["masked", "attended"])
def test_a_model_trained_here_generates_the_same_in_transformers(padding: Any, tmp_path: Path) -> None:
    """This holds for both ways of padding the batches in training, since a clip's own description is not padded."""
    shape = Shape(width=24, codebooks=2, cardinality=64)
    sizes = {"codebooks": 2, "cardinality": 64, "width": 24, "heads": 4, "layers": 3, "dropout": 0.1}
    config = MusicModelConfig(
        language_model=LanguageModelConfig.model_validate(sizes | {"padding": padding}),
        description=TextConfig(width=16, finetune=True),
    )
    torch.manual_seed(3)
    model = MusicModel(config, text_encoder(), tokenizer()).eval()
    facts = CheckpointFacts(
        model=config, frame_rate=25.0, segment_seconds=4.0, text_encoder=None, text_encoder_digest="0" * 64
    )
    write_hugging_face(TrainedModel(model, facts, random_musicgen(shape).audio_encoder), tmp_path)
    requests = [GenerationRequest(Attributes(text), 12, seed=0, temperature=0.0) for text in DESCRIPTIONS]
    mine = generate(model, requests)
    assert torch.equal(torch.stack(mine), greedy_codes(load(tmp_path), shape, 12, DESCRIPTIONS))
    again = read_hugging_face(tmp_path)
    assert again.facts.model.language_model == config.language_model.model_copy(update={"padding": "masked"})
    assert again.facts.segment_seconds == 4.0
    state = again.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
